import { parseArgs } from 'node:util';
import { execute, readBack, type ExecutionOptions } from './execute.js';
import { readFileLines, UnusableFile, type FileLine } from './file-line.js';
import { PatientShopApi } from './patient-shop-api.js';
import { planReplay } from './plan.js';
import { ShownProgress } from './progress.js';
import { asTable, reconcile, refusalExamples } from './reconcile.js';
import { SdkShopApi } from './sdk-shop-api.js';
import { goOn, ReplayStopped } from './shop-api.js';

const usage = `Replays invoices in the Online Retail format as orders, returns and stock adjustments.

  npm run replay -- FILE.csv[.gz] [options]

  --url URL          address of the API (http://127.0.0.1:3000)
  --concurrency N    calls in flight at a time, 1 to 1000 (16)
  --speed N          N times faster than the file's own timing; as fast as possible without it
  --json             the reconciliation as one JSON object on the last line
  --help             this text

Examples
  npm run replay -- online-retail.csv.gz
  npm run replay -- online-retail.csv --speed 3600 --concurrency 64     an hour of the file in a second
  npm run replay -- online-retail.csv.gz --json | tail -n 1 | jq .refused

You can stop it and run it again at any time: it continues where it stopped, and nothing is placed twice. It ends with a
reconciliation, placed − returned + refused + adjusted = file, and with exit code 1 if that does not hold.
`;

const mostConcurrency = 1_000;

/** The streams that the replay writes to, and the signal that stops it. */
export interface Surroundings {
  out: NodeJS.WritableStream;
  err: NodeJS.WritableStream & { isTTY?: boolean; columns?: number };
  /** When aborted, nothing further is begun. */
  stop: AbortSignal;
}

interface Options {
  file: string;
  url: string;
  concurrency: number;
  speed: number | undefined;
  json: boolean;
}

class WrongUsage extends Error {}

const readOptions = (args: string[]): Options | 'help' => {
  const { values, positionals } = parsed(args);
  if (values.help) return 'help';
  const [file, ...more] = positionals;
  if (file === undefined) throw new WrongUsage('Name the file to replay.');
  if (more.length > 0) throw new WrongUsage(`Name one file; these are too many: ${more.join(', ')}`);
  const concurrency = Number(values.concurrency);
  if (!Number.isInteger(concurrency) || concurrency < 1 || concurrency > mostConcurrency)
    throw new WrongUsage(`--concurrency is ${values.concurrency}; it must be an integer from 1 to ${mostConcurrency}.`);
  const speed = values.speed === undefined ? undefined : Number(values.speed);
  if (speed !== undefined && !(speed > 0 && Number.isFinite(speed)))
    throw new WrongUsage(`--speed is ${values.speed}; it must be a number above 0, such as 60.`);
  if (!/^https?:$/.test(URL.parse(values.url)?.protocol ?? ''))
    throw new WrongUsage(`--url is ${values.url}; it must be an address such as http://127.0.0.1:3000.`);
  return { file, url: values.url, concurrency, speed, json: values.json };
};

const parsed = (args: string[]) => {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        url: { type: 'string', default: 'http://127.0.0.1:3000' },
        concurrency: { type: 'string', default: '16' },
        speed: { type: 'string' },
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
  } catch (error) {
    throw new WrongUsage((error as Error).message, { cause: error });
  }
};

const readLines = async (file: string, progress: ShownProgress, stop: AbortSignal): Promise<FileLine[]> => {
  const lines: FileLine[] = [];
  for await (const line of readFileLines(file)) {
    stop.throwIfAborted();
    lines.push(line);
  }
  progress.say(`${lines.length.toLocaleString('en-GB')} lines read from ${file}`);
  return lines;
};

/** Replays the file and prints the reconciliation. @returns whether everything adds up */
const replayFile = async (options: Options, surroundings: Surroundings, progress: ShownProgress): Promise<boolean> => {
  const { file, url, concurrency, speed, json } = options;
  const { out, err, stop } = surroundings;
  const plan = planReplay(await readLines(file, progress, stop));
  const shop = new PatientShopApi(new SdkShopApi(url), url, stop, (message) => progress.say(message));
  const execution: ExecutionOptions = { concurrency, speed, stop, progress };
  const outcome = await execute(plan, shop, execution);
  const read = await readBack(outcome.placed, shop, execution);
  progress.close();
  const { report, faults } = reconcile(plan, outcome, read);
  for (const example of refusalExamples([...plan.refusals, ...outcome.refusals])) err.write(`${example}\n`);
  out.write(json ? `${JSON.stringify(report)}\n` : `\n${asTable(report)}\n`);
  for (const fault of faults.slice(0, 20)) err.write(`MISMATCH: ${fault}\n`);
  if (faults.length > 20) err.write(`… and ${faults.length - 20} further mismatches\n`);
  return faults.length === 0;
};

/**
 * The command line.
 *
 * @param args the arguments after the command's name
 * @returns the exit code: 0 if everything adds up, 1 if it does not or the replay failed, 2 for wrong usage, 130 if it was
 *   stopped
 */
export const replay = async (args: string[], surroundings: Surroundings): Promise<number> => {
  const { out, err, stop } = surroundings;
  let progress: ShownProgress | undefined;
  try {
    const options = readOptions(args);
    if (options === 'help') {
      out.write(usage);
      return 0;
    }
    progress = new ShownProgress(err);
    return (await replayFile(options, surroundings, progress)) ? 0 : 1;
  } catch (error) {
    progress?.close();
    if (error instanceof WrongUsage) {
      err.write(`${error.message}\n\n${usage}`);
      return 2;
    }
    if (stop.aborted) {
      err.write(`Stopped. ${goOn}\n`);
      return 130;
    }
    if (!(error instanceof ReplayStopped || error instanceof UnusableFile)) throw error;
    err.write(`${error.message}\n`);
    return 1;
  }
};
