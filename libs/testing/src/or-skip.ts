/**
 * For test files: `describe` or `it` where what it needs is there, its `skip` and a warning where not. In the pipeline, which
 * installs all there is (GitHub sets `GITHUB_ACTIONS`), a missing part is an error, so that nothing is skipped unseen.
 *
 * @param missing what is not there, and how to get it
 */
export function orSkip<Test extends { skip: unknown }>(isThere: boolean, test: Test, missing: string): Test {
  if (isThere) return test;
  if (process.env['GITHUB_ACTIONS']) throw new Error(missing);
  process.stderr.write(`SKIPPED: ${missing}\n`);
  return test.skip as Test;
}
