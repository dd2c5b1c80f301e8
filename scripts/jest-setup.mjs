import 'reflect-metadata';
import { jest } from '@jest/globals';
import fc from 'fast-check';

// Random test data follow from the seed that jest prints: `TEST_SEED=<seed> npm test` repeats them.
process.env.TEST_SEED ??= String(jest.getSeed());
fc.configureGlobal({ seed: Number(process.env.TEST_SEED) });
