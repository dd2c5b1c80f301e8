import { ValueType, type Attributes, type HrTime } from '@opentelemetry/api';
import { AggregationTemporality, DataPointType, type HistogramMetricData } from '@opentelemetry/sdk-metrics';

export interface DurationsOptions {
  /** As the semantic conventions of OpenTelemetry name it. */
  name: string;
  description: string;
  /** The upper bounds of its buckets, in seconds, in ascending order. */
  bounds: readonly number[];
  /** The names of the attributes that each duration is recorded with. */
  attributes: readonly string[];
}

/** The value of an attribute, if there is one. Callers never choose it, so the number of series is bounded. */
type AttributeValue = string | number | undefined;

interface Series {
  attributes: Attributes;
  /** One more than there are bounds, for values above all of them. */
  counts: number[];
  sum: number;
  count: number;
}

class Branch {
  readonly next = new Map<AttributeValue, Branch>();
  series: Series | undefined;
}

const nowAsHrTime = (): HrTime => [Math.floor(Date.now() / 1_000), 0];

/**
 * A histogram for what is measured most: requests and calls. OpenTelemetry's own sorts the attributes of each value and
 * encodes them as JSON to find the series, which takes longer than everything else that is measured of a request.
 */
export class Durations {
  private readonly root = new Branch();
  private readonly all: Series[] = [];
  private readonly startTime = nowAsHrTime();

  constructor(private readonly options: DurationsOptions) {}

  /** @param values of the attributes, in their order */
  record(seconds: number, ...values: AttributeValue[]): void {
    let at = this.root;
    for (const value of values) {
      let next = at.next.get(value);
      if (!next) at.next.set(value, (next = new Branch()));
      at = next;
    }
    const series = (at.series ??= this.newSeries(values));
    const { bounds } = this.options;
    let bucket = 0;
    while (bucket < bounds.length && seconds > bounds[bucket]!) bucket += 1;
    series.counts[bucket]! += 1;
    series.sum += seconds;
    series.count += 1;
  }

  /** In the data model of OpenTelemetry. */
  read(): HistogramMetricData {
    const { name, description, bounds } = this.options;
    const endTime = nowAsHrTime();
    return {
      descriptor: { name, description, unit: 's', valueType: ValueType.DOUBLE },
      aggregationTemporality: AggregationTemporality.CUMULATIVE,
      dataPointType: DataPointType.HISTOGRAM,
      dataPoints: this.all.map(({ attributes, counts, sum, count }) => ({
        ...{ startTime: this.startTime, endTime, attributes },
        value: { buckets: { boundaries: [...bounds], counts: [...counts] }, sum, count },
      })),
    };
  }

  private newSeries(values: readonly AttributeValue[]): Series {
    const { attributes: names, bounds } = this.options;
    const named = names.flatMap((name, at) => (values[at] === undefined ? [] : [[name, values[at]] as const]));
    const series = {
      attributes: Object.fromEntries(named),
      counts: Array(bounds.length + 1).fill(0),
      sum: 0,
      count: 0,
    };
    this.all.push(series);
    return series;
  }
}
