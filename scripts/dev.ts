import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { env, readEnvironment } from '#config';
import { closeOnSignals } from '#rest';
import { dataKeys } from '#security';
import { databaseEnvironment, run, startDatabaseFor, togetherFallbacks } from '#service';

const environment = { ...databaseEnvironment, DATA_DIR: env.directory('.data'), DATA_KEYS: dataKeys.optional() };

/**
 * Closing a terminal sends SIGHUP to every process in it. The CLI has no handler for it: it would end at once, and nobody
 * would wait for the monolith, which then loses its Postgres while it finishes its work.
 */
const outlastsHangUp = ['--import', `data:text/javascript,process.on('SIGHUP', () => {})`];

/** Longer than the monolith takes to stop. */
const patienceMs = 40_000;
/**
 * If the CLI is told to stop while it compiles, it starts the monolith once more, which has to be told again. Not while it
 * may still be finishing requests: a second signal makes it stop at once.
 */
const tellAgainMs = 32_000;

const exec = process.platform === 'win32' ? [] : ['--exec', 'exec node'];
const forCli = process.argv.splice(2);
const help = `Runs one process and restarts it at every change, with an embedded Postgres unless DATABASE_URL is set.

  npm run dev
  npm run dev -- [options of \`nest start\`, such as --debug; see npx nest start --help]
`;
const cli = fileURLToPath(import.meta.resolve('@nestjs/cli/bin/nest.js'));

if (forCli.some((it) => it === '--help' || it === '-h')) {
  process.stdout.write(help);
  process.exit();
}

/**
 * Runs `nest start monolith --watch`. At each change, Nest's CLI ends the monolith and every process below it, so an
 * embedded Postgres for all modules is started here and stays. (If only some modules have a database of their own, the
 * monolith starts one for the others.) The shell in which the CLI starts the monolith replaces itself by it: otherwise the
 * CLI would take the end of the shell for that of the monolith, and start the next one while the last one still has its
 * port. Arguments are passed on to the CLI.
 */
run(async () => {
  const { DATA_DIR, DATA_KEYS, ...urls } = readEnvironment(environment, process.env, {
    fallbacks: togetherFallbacks(process.env),
  });
  const isEmbedded = Object.values(urls).every((url) => url === undefined);
  const database = isEmbedded ? await startDatabaseFor({ DATA_KEYS }, DATA_DIR) : undefined;
  const keys = database?.dataKeys.ORDER;
  const ofDatabase = database && {
    ...database.urls,
    ...(keys !== undefined && { DATA_KEYS: keys }),
    DEMO_PRODUCTS: process.env['DEMO_PRODUCTS'] || 'true',
  };
  const nest = spawn(process.execPath, [...outlastsHangUp, cli, 'start', 'monolith', '--watch', ...exec, ...forCli], {
    stdio: 'inherit',
    env: { ...process.env, ...ofDatabase },
  });
  // A monolith that starts while the previous one is told to stop would go on.
  process.once('exit', () => nest.kill('SIGTERM'));
  const ended = once(nest, 'exit') as Promise<[number | null]>;
  let isStopping = false;
  const close = async (): Promise<void> => {
    isStopping = true;
    nest.kill('SIGTERM');
    const again = setInterval(() => nest.kill('SIGTERM'), tellAgainMs);
    await ended;
    clearInterval(again);
  };
  closeOnSignals({ close }, { after: database ? [database.stop] : [], patienceMs });
  const [code] = await ended;
  if (isStopping) return;
  await database?.stop();
  process.exit(code ?? 1);
});
