import type { Attributes, Meter, Observable } from '@opentelemetry/api';
import type { Instance } from './target.js';
import type { Targets } from './targets.js';

type Measured = Pick<Targets<never, Instance>, 'name' | 'states' | 'counts'>;

interface Observed {
  name: string;
  kind: 'Counter' | 'UpDownCounter';
  unit: string;
  description: string;
  read: (targets: Measured) => readonly (readonly [value: number, attributes?: Attributes])[];
}

const observed: readonly Observed[] = [
  {
    name: 'balancing.targets',
    kind: 'UpDownCounter',
    unit: '{instance}',
    description: 'Known instances by state. An ejected instance gets no requests while there are others.',
    read: ({ states }) =>
      Object.entries(states).map(([state, count]) => [count, { 'balancing.state': state }] as const),
  },
  {
    name: 'balancing.ejections',
    kind: 'Counter',
    unit: '{ejection}',
    description: 'Ejections of an instance that failed or announced that it is stopping.',
    read: ({ counts }) => [[counts.ejections]],
  },
  {
    name: 'balancing.retries',
    kind: 'Counter',
    unit: '{request}',
    description: 'Requests that were retried, on another instance if there is one.',
    read: ({ counts }) => [[counts.retries]],
  },
  {
    name: 'balancing.refused',
    kind: 'Counter',
    unit: '{request}',
    description: 'Requests not sent because every instance is full, or not retried because the retry budget is spent.',
    read: ({ counts }) => [
      [counts.refusedAsFull, { 'balancing.reason': 'full' }],
      [counts.refusedByBudget, { 'balancing.reason': 'budget' }],
    ],
  },
];

/** Exports metrics of one service's instances. @param transport how they are reached, `tcp` or `http` */
export const reportTo = (meter: Meter, targets: Measured, transport: string): void => {
  const service = { 'balancing.service': targets.name, 'network.transport': transport };
  for (const { name, kind, read, ...options } of observed) {
    const instrument: Observable = meter[`createObservable${kind}`](name, options);
    instrument.addCallback((result) => {
      for (const [value, attributes] of read(targets)) result.observe(value, { ...service, ...attributes });
    });
  }
};
