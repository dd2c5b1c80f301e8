import { AsyncLocalStorage } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import type { Attributes, Span } from '@opentelemetry/api';

export interface SpanOptions {
  kind?: 'server' | 'client' | 'consumer' | 'producer';
  attributes?: Attributes;
  /** The spans that it goes back to besides its parent. */
  links?: readonly string[];
}

export interface SpanMaker {
  /**
   * Begins a span: a child of `parent`, the first of a trace where there is none.
   *
   * @returns nothing where nobody is to see it
   */
  begin(name: string, parent: string | undefined, options?: SpanOptions): Span | undefined;
}

/** What is known of the work that is under way: for its log lines, its spans, and for what is asked of others on its behalf. */
export interface Work {
  /** The span that whatever follows is a child of (W3C Trace Context). */
  traceparent?: string | undefined;
  requestId?: string | undefined;
  tenant?: string | undefined;
  orderId?: string | undefined;
  /** Where its spans go; none where the app makes none. */
  traces?: SpanMaker | undefined;
}

const works = new AsyncLocalStorage<Work>();

/** Version, trace, parent and flags (W3C Trace Context, 3.2); neither trace nor parent may be all zeros. */
const pattern = /^(?!ff)[\da-f]{2}-(?!0{32})[\da-f]{32}-(?!0{16})[\da-f]{16}-[\da-f]{2}$/;

/** @returns `undefined` for what is no `traceparent`: whoever gets one starts a trace of its own */
export const traceparentOf = (header: unknown): string | undefined =>
  typeof header === 'string' && pattern.test(header) ? header : undefined;

export const currentWork = (): Work | undefined => works.getStore();

/** The trace of the work that is under way. */
export const currentTrace = (): string | undefined => works.getStore()?.traceparent;

/** Does what follows from `doIt` as this work and as no other. */
export const withWork = <T>(work: Work, doIt: () => T): T => works.run(work, doIt);

/** Adds what has become known of the work that is under way. */
export const noteOfWork = (known: Pick<Work, 'tenant' | 'orderId'>): void => {
  const work = works.getStore();
  if (work) Object.assign(work, known);
};

/** What callers may name a request by: nothing that a log or a header could take for something else. */
const requestIdPattern = /^[\w.:/+=-]{1,128}$/;

/** The id that a request came with, where that is well-formed, or one that no other request has, and that tells nothing. */
export const requestIdOf = (header: unknown): string =>
  typeof header === 'string' && requestIdPattern.test(header) ? header : randomUUID();
