import { Inject, Injectable, Optional } from '@nestjs/common';
import { keptFor } from '#periodic';
import { Metrics } from '#telemetry';

/** How the sagas of all tenants do. */
export abstract class SagaStates {
  /**
   * Counted only as far as is needed to see that they are many.
   *
   * @returns those under way, those that are tried in vain and those that wait for a person; and for how long one of them
   *   has been due, in seconds
   */
  abstract states(): Promise<{ running: number; stuck: number; parked: number; overdue: number }>;
}

/** Metrics are open to everybody: whoever asks often does not have Postgres asked as often. */
const [keepMs, withinMs] = [1_000, 5_000];

/** Asked of Postgres when somebody asks for the metrics: the same by every instance, whoever leads the sagas. */
@Injectable()
export class ObserveSagas {
  constructor(states: SagaStates, @Optional() @Inject(Metrics) metrics?: Metrics) {
    const meter = metrics?.meter('order');
    if (!meter) return;
    const count = meter.createObservableGauge('order.sagas', {
      unit: '{saga}',
      description: 'Sagas by state: running, stuck (failed many times), parked (waits for a person).',
    });
    const overdue = meter.createObservableGauge('order.sagas.overdue', {
      unit: 's',
      description: 'How long the most overdue saga has been due.',
    });
    const read = keptFor(keepMs, withinMs, () => states.states());
    meter.addBatchObservableCallback(
      async (result) => {
        const { overdue: seconds, ...counts } = await read();
        for (const [state, value] of Object.entries(counts))
          result.observe(count, value, { 'order.saga.state': state });
        result.observe(overdue, seconds);
      },
      [count, overdue],
    );
  }
}
