import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { contestants, type Contestant } from './contestants.js';
import type { Outcome, Race } from './race.js';
import { races, runRace } from './races.js';

const usage = `Runs races that caches are known to lose: values that are stale before they are cached, broken connections, servers that hang.

  npm run races -- [options]

Options
  --race TEXT          only races whose name contains TEXT
  --contestant LIST    of ${contestants.map((it) => it.name).join(', ')} (all)
  --help               prints this text

Prints a Markdown table with a row for each race and what each cache did in it. Every race starts its own Redis servers, so
redis-server must be on the PATH. It takes about four minutes. What the clients log goes to stderr. The exit code is 1 if
our cache fails a race, and 0 otherwise.
`;

const versions = (
  JSON.parse(readFileSync('package.json', 'utf8')) as { devDependencies: Record<string, string | undefined> }
).devDependencies;

const titles: Record<string, string> = {
  ours: 'ours',
  bentocache: `bentocache ${versions['bentocache']}`,
  'cache-manager': `cache-manager ${versions['cache-manager']}, @keyv/redis ${versions['@keyv/redis']}`,
};

/** Unhandled rejections. */
const stray: unknown[] = [];
process.on('unhandledRejection', (error) => stray.push(error));

const outcomeOf = async (race: Race, contestant: Contestant): Promise<Outcome> => {
  stray.length = 0;
  let outcome: Outcome;
  try {
    outcome = await runRace(race, contestant);
  } catch (error) {
    outcome = { did: `failed: ${String(error)}`, holds: false };
  }
  if (stray.length === 0) return outcome;
  return { did: `${outcome.did}; unhandled: ${String(stray[0])}`, holds: false };
};

const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;

const run = async (chosen: readonly Race[], running: readonly Contestant[]): Promise<boolean> => {
  const head = ['race', ...running.map(({ name }) => titles[name]!)];
  process.stdout.write(row(head) + row(head.map(() => '---')));
  let isHeld = true;
  for (const race of chosen) {
    const cells: string[] = [];
    for (const contestant of running) {
      const { did, holds } = await outcomeOf(race, contestant);
      cells.push(did);
      if (contestant.name === 'ours' && !holds) {
        isHeld = false;
        process.stderr.write(`our cache fails: ${race.name}\n`);
      }
    }
    process.stdout.write(row([race.name, ...cells]));
  }
  return isHeld;
};

const { values } = parseArgs({
  options: {
    race: { type: 'string', default: '' },
    contestant: { type: 'string', default: contestants.map((it) => it.name).join() },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (values.help) process.stdout.write(usage);
else {
  const chosen = races.filter(({ name }) => name.includes(values.race));
  const running = contestants.filter(({ name }) => values.contestant.split(',').includes(name));
  if (chosen.length === 0 || running.length === 0) {
    process.stderr.write('No race or no contestant has that name. See --help.\n');
    process.exit(2);
  }
  // A hanging contestant must not keep the process alive.
  process.exit((await run(chosen, running)) ? 0 : 1);
}
