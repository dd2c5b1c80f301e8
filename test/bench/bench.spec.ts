import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';

const run = promisify(execFile);
const program = join(process.cwd(), 'dist/test/bench/main.js');
const smallest = ['--callers', '4', '--rounds', '1', '--seconds', '0.3', '--seed', '7'];

interface Measured {
  [measure: string]: unknown;
  contestant: string;
  failures: Record<string, number>;
  answeredBy: Record<string, number>;
}

interface Written {
  faults: string[];
  goals: { name: string; verdict: string }[];
  runs: Measured[];
}

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bench-report-'));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

/** Like `npm run bench`, on the last build. */
const bench = async (...args: string[]): Promise<{ stdout: string; report: Written }> => {
  const file = join(folder, 'report.json');
  const { stdout } = await run(process.execPath, [program, ...args, ...smallest, '--json', file]);
  return { stdout, report: JSON.parse(await readFile(file, 'utf8')) as Written };
};

describe('the benchmark', () => {
  it('measures every contestant and finds no wrong stock or lost order', async () => {
    const { stdout, report } = await bench('place', '--workload', 'spread');
    expect(report.faults).toEqual([]);
    expect(report.runs.map((it) => it.contestant)).toEqual(['limit a', 'limit b', 'ours', 'echo', 'bare', 'baseline']);
    for (const it of report.runs) {
      expect(it.failures).toEqual({});
      for (const measure of ['count', 'perSecond', 'p50Ms', 'p99Ms']) expect(it[measure]).toBeGreaterThan(0);
    }
    expect(report.goals.length).toBeGreaterThan(15);
    expect(stdout).toContain('Stock is exact to the unit after every run');
  });

  it('reports which instance answered each call, and finds no reply to another request', async () => {
    const { report } = await bench('balance');
    expect(report.faults).toEqual([]);
    expect(report.runs.map((it) => [it.contestant, Object.keys(it.answeredBy).toSorted()])).toEqual(
      ['three', 'slow'].flatMap((third) =>
        ['random', 'round-robin', 'least-loaded'].map((it) => [it, ['one', third, 'two'].toSorted()]),
      ),
    );
    for (const { count, answeredBy } of report.runs)
      expect(Object.values(answeredBy).reduce((sum, it) => sum + it, 0)).toBe(count);
  });

  it('reports an unknown workload and exits with code 2', async () => {
    await expect(run(process.execPath, [program, 'place', '--workload', 'none'])).rejects.toMatchObject({
      code: 2,
      stderr: expect.stringContaining('There is no workload none; there are spread, hot, mix.'),
    });
  });
});
