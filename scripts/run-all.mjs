// Runs the named npm scripts one after the other, even if some fail, and lists those at the end. `prefix:*` stands for every
// script whose name begins with the prefix and is not named itself; they run at the same time.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';

const { scripts } = JSON.parse(readFileSync('package.json', 'utf8'));
const names = process.argv.slice(2);
const failed = [];

const note = (name, status) => {
  if (status !== 0) failed.push(name);
};

/** Shows what it prints as it prints it. */
const run = async (name) => {
  console.log(`\n> ${name}`);
  const [status] = await once(spawn(`npm run --silent ${name}`, { stdio: 'inherit', shell: true }), 'close');
  note(name, status);
};

/** Shows what it has printed when it has ended, so that it does not mix with what others print. */
const runBeside = async (name) => {
  const script = spawn(`npm run --silent ${name} 2>&1`, { stdio: ['ignore', 'pipe', 'inherit'], shell: true });
  const [printed, [status]] = await Promise.all([text(script.stdout), once(script, 'close')]);
  process.stdout.write(`\n> ${name}\n${printed}`);
  note(name, status);
};

for (const name of names) {
  if (!name.endsWith('*')) await run(name);
  else {
    const all = Object.keys(scripts).filter((it) => it.startsWith(name.slice(0, -1)) && !names.includes(it));
    await Promise.all(all.map(runBeside));
  }
}
if (failed.length > 0) {
  console.error(`\nFailed: ${failed.join(', ')}. Repeat one alone with \`npm run <name>\`.`);
  process.exitCode = 1;
}
