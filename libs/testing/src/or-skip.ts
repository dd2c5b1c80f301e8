/**
 * For test files: `describe` or `it` if what it needs is there, else its `skip` and a warning. In the pipeline, which
 * installs everything (GitHub sets `GITHUB_ACTIONS`), a missing part is an error, so that nothing is skipped unnoticed.
 *
 * @param missing what is missing, and how to get it
 */
export function orSkip<Test extends { skip: unknown }>(isThere: boolean, test: Test, missing: string): Test {
  if (isThere) return test;
  if (process.env['GITHUB_ACTIONS']) throw new Error(missing);
  process.stderr.write(`SKIPPED: ${missing}\n`);
  return test.skip as Test;
}
