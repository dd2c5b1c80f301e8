/** The trace that a piece of work belongs to, from the request that began it to the events that it leads to. */
export { currentTrace, traceparentOf, withTrace } from './traceparent.js';
