import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { guardProcess, unguardProcess } from '../support/app-process.js';

const run = promisify(execFile);
const keptOutput = 200_000;

/** The account that a server runs under. */
export interface Account {
  uid: number;
  gid: number;
}

/** Postgres refuses to run as root: a root process runs it as `postgres`, any other as itself. */
export const postgresAccount = async (): Promise<Account | undefined> => {
  if (process.getuid?.() !== 0) return undefined;
  const [uid, gid] = await Promise.all(
    ['-u', '-g'].map(async (flag) => Number((await run('id', [flag, 'postgres'])).stdout)),
  );
  return { uid: uid!, gid: gid! };
};

/** A server that a test starts, kills and restarts; it ends with the test process, however that ends. */
export class Daemon {
  private child: ChildProcess | undefined;
  private printed = '';

  constructor(
    readonly name: string,
    private readonly commandLine: readonly [string, ...string[]],
    private readonly options: { account?: Account | undefined; folder: string },
  ) {}

  get pid(): number {
    return this.child?.pid ?? 0;
  }

  get isRunning(): boolean {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Its output over all starts; the oldest part may be cut off. */
  get output(): string {
    return this.printed;
  }

  async start(): Promise<void> {
    const [command, ...args] = this.commandLine;
    const { account, folder } = this.options;
    const child = spawn(command, args, {
      ...account,
      cwd: folder,
      env: { PATH: process.env['PATH'], HOME: folder, LC_ALL: 'C', PYTHONUNBUFFERED: '1' },
      stdio: ['ignore', 'pipe', 'pipe'],
      // Detached, so that a Ctrl-C meant for jest does not reach it.
      detached: true,
    });
    this.child = child;
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.printed = (this.printed + text).slice(-keptOutput);
      });
    // Rejects if the program does not exist.
    await once(child, 'spawn');
    const pid = child.pid!;
    guardProcess(pid);
    child.once('exit', () => unguardProcess(pid));
  }

  /** Sends the signal and waits for the end. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const { child } = this;
    if (!child || !this.isRunning) return;
    // A stopped process handles no other signal.
    if (signal !== 'SIGKILL') child.kill('SIGCONT');
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }
}
