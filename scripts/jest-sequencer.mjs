import Sequencer from '@jest/test-sequencer';

/** A test that collects garbage again and again: it took eight times as long in a worker that had run other tests. */
const inFreshWorker = /cache-engine.test.heap\.spec\.ts$/;

/** Jest's own order, except for tests that need a fresh worker, which come first. */
export default class FreshFirst extends Sequencer {
  async sort(tests) {
    const sorted = await super.sort(tests);
    return sorted.toSorted((one, other) => inFreshWorker.test(other.path) - inFreshWorker.test(one.path));
  }
}
