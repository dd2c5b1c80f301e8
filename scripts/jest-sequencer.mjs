import Sequencer from '@jest/test-sequencer';

const inFront = [
  // Collects garbage again and again: it took eight times as long in a worker that had run other tests.
  /cache-engine.test.heap\.spec\.ts$/,
  // Short files that run long suites. Without the times of an earlier run, jest would begin with the longest files: these
  // would be last, and each would keep one worker busy for two minutes while the others had nothing to do.
  /test.(?:fault.crash|e2e.(?:monolith|split-tcp))\.spec\.ts$/,
];

const rankOf = ({ path }) => {
  const rank = inFront.findIndex((it) => it.test(path));
  return rank < 0 ? inFront.length : rank;
};

/** Jest's own order, except for the tests above. */
export default class SomeFirst extends Sequencer {
  async sort(tests) {
    const sorted = await super.sort(tests);
    return sorted.toSorted((one, other) => rankOf(one) - rankOf(other));
  }
}
