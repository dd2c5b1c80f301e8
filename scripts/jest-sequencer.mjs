import Sequencer from '@jest/test-sequencer';

/** What collects garbage again and again to see what is left: in a worker that has run others it took eight times as long. */
const inFreshWorker = /cache-engine.test.heap\.spec\.ts$/;

/** As jest has it, but for what a worker is to begin with. */
export default class FreshFirst extends Sequencer {
  async sort(tests) {
    const sorted = await super.sort(tests);
    return sorted.toSorted((one, other) => inFreshWorker.test(other.path) - inFreshWorker.test(one.path));
  }
}
