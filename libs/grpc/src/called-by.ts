import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { Caller } from '#security';

/** The callers of calls that were admitted, by the metadata of the call. */
export const callers = new WeakMap<object, Caller>();

/** The authenticated caller: `@CalledBy() caller: Caller`. */
export const CalledBy = createParamDecorator((_: undefined, context: ExecutionContext): Caller => {
  const caller = callers.get(context.getArgByIndex<object>(1));
  if (!caller) throw new Error('the caller has not been authenticated');
  return caller;
});
