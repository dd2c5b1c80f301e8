/** The environment, parsed once, typed, and refused with all its faults at once. */
export * from './environment.js';
export * as env from './variables.js';
