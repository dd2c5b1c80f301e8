/** The environment, parsed once, typed, and refused with all its faults at once. */
import './node.js';
export * from './environment.js';
export { withoutBrackets } from './hosts.js';
export * as env from './variables.js';
