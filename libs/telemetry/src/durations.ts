import { ValueType, type Attributes, type HrTime } from '@opentelemetry/api';
import { AggregationTemporality, DataPointType, type HistogramMetricData } from '@opentelemetry/sdk-metrics';

export interface DurationsOptions {
  /** As the semantic conventions of OpenTelemetry name it. */
  name: string;
  description: string;
  /** The upper bounds of its buckets, in seconds, in ascending order. */
  bounds: readonly number[];
  /** The names of what each duration is recorded with. */
  attributes: readonly string[];
}

/** What an attribute says. It may be left out, and all that it can say is known to the program: callers write none of it. */
type AttributeValue = string | number | undefined;

interface Series {
  attributes: Attributes;
  /** One more than there are bounds, for what is above all of them. */
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
 * A histogram of how long it takes what is done most: requests and calls. OpenTelemetry's own sorts the attributes of each
 * value and writes them as JSON to find the series, which takes longer than all else that is measured of a request.
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

  /** As OpenTelemetry has it. */
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
