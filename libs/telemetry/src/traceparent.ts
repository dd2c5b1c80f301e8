import { AsyncLocalStorage } from 'node:async_hooks';

const traces = new AsyncLocalStorage<string>();

/** Version, trace, parent and flags (W3C Trace Context, 3.2); neither trace nor parent may be all zeros. */
const pattern = /^(?!ff)[\da-f]{2}-(?!0{32})[\da-f]{32}-(?!0{16})[\da-f]{16}-[\da-f]{2}$/;

/** @returns `undefined` for what is no `traceparent`: whoever gets one starts a trace of its own */
export const traceparentOf = (header: unknown): string | undefined =>
  typeof header === 'string' && pattern.test(header) ? header : undefined;

/** The trace of the work that is under way. */
export const currentTrace = (): string | undefined => traces.getStore();

/** Does what follows from `work` as part of a trace; of none costs nothing. */
export const withTrace = <T>(traceparent: string | undefined, work: () => T): T =>
  traceparent === undefined ? work() : traces.run(traceparent, work);
