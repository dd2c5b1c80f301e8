import { readdirSync } from 'node:fs';

// Only our own libs: packages such as chalk have `#…` imports of their own.
const libs = readdirSync(new URL('libs', import.meta.url)).join('|');

/** @type {import('jest').Config} */
export default {
  testMatch: ['libs/*/test', 'apps/*/test', 'test'].map((folder) => `<rootDir>/${folder}/**/*.spec.ts`),
  modulePathIgnorePatterns: ['<rootDir>/dist/', '<rootDir>/\\.data/'],
  transform: { '\\.ts$': '@swc/jest' },
  extensionsToTreatAsEsm: ['.ts'],
  // js before ts, because the mapping below removes the extension from the imports of all packages.
  moduleFileExtensions: ['js', 'mjs', 'cjs', 'ts', 'json', 'node'],
  moduleNameMapper: {
    [`^#(${libs})$`]: '<rootDir>/libs/$1/src/index.ts',
    '^(\\.{1,2}/.*)\\.js$': '$1',
  },
  setupFiles: ['<rootDir>/scripts/jest-setup.mjs'],
  showSeed: true,
  // Only for tests that hang: on a slow or busy machine, a test that normally takes half a minute must not fail.
  testTimeout: 240_000,
  // Enough for two cores to be busy: for about half of their time, tests wait for servers, deadlines and timers.
  maxWorkers: 4,
  // Modules of finished test files stay in memory, which makes garbage collection slower and slower.
  workerIdleMemoryLimit: '1GB',
  testSequencer: '<rootDir>/scripts/jest-sequencer.mjs',
  reporters: ['default', '<rootDir>/scripts/jest-count-reporter.mjs'],
};
