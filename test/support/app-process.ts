import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const keptLogCharacters = 400_000;
const readyWithinMs = 150_000;

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/**
 * Cleans up after a killed worker. Each line of standard input lists what there is now (the last one counts); when the
 * input closes, the worker is gone.
 */
const watchdogProgram = `
  const { readFileSync, rmSync } = require('node:fs');
  let text = '';
  const kill = (pid, signal) => { try { process.kill(pid, signal); return true; } catch { return false; } };
  const postmasterIn = (folder) => {
    try { return Number(readFileSync(folder + '/postgres/data/postmaster.pid', 'utf8').split('\\n')[0]); } catch { return 0; }
  };
  const remove = (folder, attemptsLeft) => {
    const pid = postmasterIn(folder);
    if (pid > 0 && attemptsLeft > 0 && kill(pid, 'SIGINT')) return setTimeout(remove, 100, folder, attemptsLeft - 1);
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  };
  const end = () => {
    const { pids, folders } = JSON.parse(text.trimEnd().split('\\n').at(-1) || '{"pids":[],"folders":[]}');
    for (const pid of pids) kill(pid, 'SIGKILL');
    for (const folder of folders) remove(folder, 100);
  };
  process.stdin.setEncoding('utf8').on('data', (chunk) => (text = (text + chunk).slice(-100000))).on('end', end).on('error', end);
`;

const pids = new Set<number>();
const folders = new Set<string>();
let watchdog: ChildProcess | undefined;

const tellWatchdog = (): void => {
  if (!watchdog) {
    // Detached, so that a Ctrl-C meant for jest does not reach it.
    watchdog = spawn(process.execPath, ['-e', watchdogProgram], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
    watchdog.unref();
    (watchdog.stdin as unknown as { unref(): void }).unref();
  }
  watchdog.stdin?.write(`${JSON.stringify({ pids: [...pids], folders: [...folders] })}\n`);
};

/** When this process ends for whatever reason, the folder and a Postgres that runs in it are removed. */
export const guardFolder = (folder: string): void => {
  folders.add(folder);
  tellWatchdog();
};

export const unguardFolder = (folder: string): void => {
  folders.delete(folder);
  tellWatchdog();
};

/** When this process ends for whatever reason, the other one is killed. */
export const guardProcess = (pid: number): void => {
  pids.add(pid);
  tellWatchdog();
};

export const unguardProcess = (pid: number): void => {
  pids.delete(pid);
  tellWatchdog();
};

/** Without the caller's environment, and with a time zone that reveals mistakes with dates. */
const bareEnvironment = (): NodeJS.ProcessEnv => ({
  PATH: process.env['PATH'],
  HOME: process.env['HOME'],
  TMPDIR: process.env['TMPDIR'],
  TZ: 'Pacific/Chatham',
});

/** Shares the V8 compile cache of `npm start`. @param home where the app was compiled */
export const compileCacheOf = (home: string): Record<string, string> => ({
  NODE_COMPILE_CACHE: resolve(home, 'dist/compile-cache'),
});

/** A compiled app as a process of its own. */
export class AppProcess {
  private child: ChildProcess | undefined;
  private ended: Promise<Exit> | undefined;
  private output = '';
  private wasTold = false;

  constructor(
    readonly name: string,
    private readonly environment: Record<string, string>,
    /** Where it was compiled: here, or in the folder of another version. */
    private readonly home = root,
    /** The program to run, relative to `home`. */
    private readonly main = `dist/apps/${name}/src/main.js`,
  ) {}

  get pid(): number {
    return this.child?.pid ?? 0;
  }

  get isRunning(): boolean {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** What it has printed in all its runs; the oldest part may be cut off. */
  get log(): string {
    return this.output;
  }

  /** Resolves with how it ended, once it has. */
  get exit(): Promise<Exit> {
    if (!this.ended) throw new Error(`${this.name} was never started`);
    return this.ended;
  }

  spawn(): void {
    if (this.isRunning) throw new Error(`${this.name} runs already`);
    const main = `${this.home}/${this.main}`;
    if (!existsSync(main)) throw new Error(`${main} does not exist; run \`npm run build\` first`);
    const child = spawn(process.execPath, [main], {
      env: { ...bareEnvironment(), ...compileCacheOf(this.home), ...this.environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child = child;
    this.wasTold = false;
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.output = (this.output + text).slice(-keptLogCharacters);
      });
    const { pid } = child;
    if (pid !== undefined) guardProcess(pid);
    this.ended = once(child, 'close').then(([code, signal]) => {
      if (pid !== undefined) unguardProcess(pid);
      return { code: code as number | null, signal: signal as NodeJS.Signals | null };
    });
  }

  /** Resolves once the URL answers 200; rejects with the output if the process ends before that. */
  async untilReady(url: string): Promise<void> {
    const giveUpAt = Date.now() + readyWithinMs;
    let last = 'nothing answered';
    while (Date.now() < giveUpAt) {
      if (!this.isRunning) {
        const { code, signal } = await this.exit;
        throw new Error(`${this.name} ended (${signal ?? code}) instead of becoming ready. It printed:\n${this.log}`);
      }
      try {
        const answer = await fetch(url, { signal: AbortSignal.timeout(5_000) });
        last = `${answer.status} ${await answer.text()}`;
        if (answer.status === 200) return;
      } catch (error) {
        last = String((error as Error).cause ?? error);
      }
      await setTimeout(50);
    }
    throw new Error(`${this.name} was not ready within ${readyWithinMs} ms: ${last}. It printed:\n${this.log}`);
  }

  /** Sends the signal and waits for the end. */
  async kill(signal: NodeJS.Signals = 'SIGTERM'): Promise<Exit> {
    this.wasTold = true;
    if (this.isRunning) this.child?.kill(signal);
    return this.exit;
  }

  /** Ends it, by force if it does not end by itself. @returns what went wrong, if anything did */
  async stop(): Promise<string | undefined> {
    if (!this.child || (this.wasTold && !this.isRunning)) return undefined;
    const endedBefore = !this.isRunning;
    const late = new AbortController();
    const forced = setTimeout(45_000, undefined, { signal: late.signal }).catch(() => undefined);
    const exit = await Promise.race([this.kill('SIGTERM'), forced]);
    late.abort();
    if (exit && !endedBefore && exit.code === 0) return undefined;
    const how = exit ? `ended with ${exit.signal ?? exit.code}` : 'had to be killed';
    await this.kill('SIGKILL');
    return `${this.name} ${how}${endedBefore ? ' before it was told to' : ''}. It printed:\n${this.log}`;
  }
}
