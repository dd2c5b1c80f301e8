import { AsyncLocalStorage } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import type { Attributes, Span } from '@opentelemetry/api';

export interface SpanOptions {
  kind?: 'server' | 'client' | 'consumer' | 'producer';
  attributes?: Attributes;
  /** The spans it is linked to, besides its parent. */
  links?: readonly string[];
}

export interface SpanMaker {
  /**
   * Begins a span: a child of `parent`, or the first of a new trace.
   *
   * @returns undefined if the span is not sampled
   */
  begin(name: string, parent: string | undefined, options?: SpanOptions): Span | undefined;
}

/** What is known of the current work, for its log lines, its spans and the calls that it makes. */
export interface Work {
  /** The span that is the parent of all further ones (W3C Trace Context). */
  traceparent?: string | undefined;
  requestId?: string | undefined;
  tenant?: string | undefined;
  orderId?: string | undefined;
  /** Makes its spans; undefined if the app makes none. */
  traces?: SpanMaker | undefined;
}

const works = new AsyncLocalStorage<Work>();

/** Version, trace, parent and flags (W3C Trace Context, 3.2); neither trace nor parent may be all zeros. */
const pattern = /^(?!ff)[\da-f]{2}-(?!0{32})[\da-f]{32}-(?!0{16})[\da-f]{16}-[\da-f]{2}$/;

/** @returns undefined for anything that is not a `traceparent`, so that a new trace begins */
export const traceparentOf = (header: unknown): string | undefined =>
  typeof header === 'string' && pattern.test(header) ? header : undefined;

export const currentWork = (): Work | undefined => works.getStore();

/** The `traceparent` of the current work. */
export const currentTrace = (): string | undefined => works.getStore()?.traceparent;

/** Runs `doIt`, and whatever it starts, as this work. */
export const withWork = <T>(work: Work, doIt: () => T): T => works.run(work, doIt);

/** Adds what has become known of the current work. */
export const annotateWork = (known: Pick<Work, 'tenant' | 'orderId'>): void => {
  const work = works.getStore();
  if (work) Object.assign(work, known);
};

/** What callers may use as a request id: nothing that could be mistaken for something else in a log or a header. */
const requestIdPattern = /^[\w.:/+=-]{1,128}$/;

/** The id that a request came with, if it is well-formed; otherwise a random one. */
export const requestIdOf = (header: unknown): string =>
  typeof header === 'string' && requestIdPattern.test(header) ? header : randomUUID();
