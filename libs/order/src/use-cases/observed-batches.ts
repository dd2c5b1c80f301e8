import type { Counter, Histogram } from '@opentelemetry/api';
import { CleaveError } from '#contracts';
import { answerSeconds, type Metrics, type Traces } from '#telemetry';
import type { Batcher } from './batcher.js';
import type { Placement, PlacementResult } from './reserve-and-record.js';

type Results = (PlacementResult | Error)[];

const sizes = [1, 2, 5, 10, 20, 50, 100, 150, 200, 250];

/** Measures and traces the batches in which orders are placed. */
export class ObservedBatches {
  private readonly size: Histogram | undefined;
  private readonly duration: Histogram | undefined;
  private readonly placements: Counter | undefined;

  constructor(
    batcher: Pick<Batcher<Placement, PlacementResult>, 'waiting' | 'inFlight'>,
    metrics: Metrics | undefined,
    private readonly traces: Traces | undefined,
  ) {
    const meter = metrics?.meter('order');
    this.size = meter?.createHistogram('order.batch.size', {
      unit: '{order}',
      description: 'Orders in a batch.',
      advice: { explicitBucketBoundaries: sizes },
    });
    this.duration = meter?.createHistogram('order.batch.duration', {
      unit: 's',
      description: 'Duration of reserving and recording a batch of orders.',
      advice: { explicitBucketBoundaries: answerSeconds },
    });
    this.placements = meter?.createCounter('order.placements', {
      unit: '{order}',
      description: 'Requested orders by outcome: placed, replayed, refused or failed.',
    });
    meter
      ?.createObservableGauge('order.queue.depth', { unit: '{order}', description: 'Orders that wait for a batch.' })
      .addCallback((result) => result.observe(batcher.waiting));
    meter
      ?.createObservableGauge('order.batches.in_flight', { unit: '{batch}', description: 'Batches in progress.' })
      .addCallback((result) => result.observe(batcher.inFlight));
  }

  async during(placements: readonly Placement[], work: () => Promise<Results>): Promise<Results> {
    const startedAt = performance.now();
    this.size?.record(placements.length);
    try {
      const results = await this.traced(placements, work);
      for (const [outcome, { length }] of Map.groupBy(results, outcomeOf)) this.placements?.add(length, { outcome });
      return results;
    } catch (error) {
      this.placements?.add(placements.length, { outcome: 'failed' });
      throw error;
    } finally {
      this.duration?.record((performance.now() - startedAt) / 1_000);
    }
  }

  private traced(placements: readonly Placement[], work: () => Promise<Results>): Promise<Results> {
    if (!this.traces) return work();
    const attributes = { 'cleave.batch.size': placements.length };
    return this.traces.ofMany(
      'place orders',
      placements.map((it) => it.traceparent),
      { attributes },
      work,
    );
  }
}

const outcomeOf = (result: PlacementResult | Error): string => {
  if (result instanceof Error) return result instanceof CleaveError && result.status < 500 ? 'refused' : 'failed';
  if ('refusal' in result) return 'refused';
  return result.replayed ? 'replayed' : 'placed';
};
