import 'reflect-metadata';
import { jest } from '@jest/globals';
import fc from 'fast-check';

// What a run makes up follows from the seed it prints: `TEST_SEED=<seed> npm test` makes up the same again.
process.env.TEST_SEED ??= String(jest.getSeed());
fc.configureGlobal({ seed: Number(process.env.TEST_SEED) });
