/** Ends a run with one plain line, `12 passed, 0 failed`, for other programs to read. */
export default class CountReporter {
  onRunComplete(_contexts, results) {
    // A file that cannot be loaded has no failed tests, but counts as one.
    const failed = results.numFailedTests + results.numRuntimeErrorTestSuites;
    const skipped = results.numPendingTests + results.numTodoTests;
    const counts = [`${results.numPassedTests} passed`, `${failed} failed`];
    if (skipped > 0) counts.push(`${skipped} skipped`);
    // At the exit, because jest's own summary and warnings come after every other reporter.
    process.once('exit', () => process.stdout.write(`${counts.join(', ')}\n`));
  }
}
