/** Reads settings from environment variables: parsed once, typed, and refused with all faults together. */
import './node.js';
export { whyDistrusted } from './certificates.js';
export * from './environment.js';
export { withoutBrackets } from './hosts.js';
export * as env from './variables.js';
