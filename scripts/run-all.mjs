// Runs the named npm scripts one after the other, even if some fail, and lists those at the end. `prefix:*` stands for every
// script whose name begins with the prefix.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

const { scripts } = JSON.parse(readFileSync('package.json', 'utf8'));
const names = process.argv
  .slice(2)
  .flatMap((name) =>
    name.endsWith('*') ? Object.keys(scripts).filter((script) => script.startsWith(name.slice(0, -1))) : [name],
  );

const failed = names.filter((name) => {
  console.log(`\n> ${name}`);
  return spawnSync(`npm run --silent ${name}`, { stdio: 'inherit', shell: true }).status !== 0;
});
if (failed.length > 0) {
  console.error(`\nFailed: ${failed.join(', ')}. Repeat one alone with \`npm run <name>\`.`);
  process.exitCode = 1;
}
