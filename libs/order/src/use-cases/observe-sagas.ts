import { Injectable, Optional } from '@nestjs/common';
import { cachedFor } from '#periodic';
import { Metrics } from '#telemetry';

/** The state of the sagas of all tenants. */
export abstract class SagaStates {
  /**
   * Counting stops at a bound, as it is enough to see that there are many.
   *
   * @returns how many sagas are running, stuck (failed many times) and parked (waiting for a person), and for how many
   *   seconds the most overdue one has been due
   */
  abstract states(): Promise<{ running: number; stuck: number; parked: number; overdue: number }>;
}

/** Metrics are open to everybody, so the counts are cached: frequent scrapes must not cause frequent queries. */
const [keepMs, withinMs] = [1_000, 5_000];

/** Queries Postgres when metrics are collected. All instances report the same values, whichever of them lead the sagas. */
@Injectable()
export class ObserveSagas {
  constructor(states: SagaStates, @Optional() metrics?: Metrics) {
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
    const read = cachedFor(keepMs, withinMs, () => states.states());
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
