import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const keptOutputCharacters = 20_000;
const stopWithinMs = 30_000;
const readyWithinMs = 60_000;

/** The root of the compiled code. */
const compiled = fileURLToPath(new URL('../..', import.meta.url));

/** The options of the image, for every process. */
const nodeOptions = ['--max-semi-space-size=32'];

/** From now on, every started process writes its CPU profile into the folder when it ends. */
export const profileInto = (folder: string): void =>
  void nodeOptions.push('--cpu-prof', `--cpu-prof-dir=${resolve(folder)}`, '--cpu-prof-interval=500');

/** Without the environment of the caller, so that no stray variable changes what is measured. */
const bareEnvironment = (): NodeJS.ProcessEnv => ({
  PATH: process.env['PATH'],
  HOME: process.env['HOME'],
  TMPDIR: process.env['TMPDIR'],
  TZ: 'UTC',
});

/**
 * A compiled program as a process of its own, so that its CPU time can be measured separately. It keeps an IPC channel to
 * this process and ends when that closes, so that nothing outlives the benchmark, however it ends.
 */
export class Child {
  readonly process: ChildProcess;
  readonly ended: Promise<string>;
  private output = '';

  /** @param program below the compiled root, such as `apps/monolith/src/main.js` */
  constructor(
    readonly program: string,
    environment: Record<string, string> = {},
  ) {
    const file = `${compiled}/${program}`;
    if (!existsSync(file)) throw new Error(`${program} is not compiled; run \`npm run build\` first`);
    this.process = spawn(process.execPath, [...nodeOptions, file], {
      env: { ...bareEnvironment(), ...environment },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      serialization: 'advanced',
      // In a process group of its own, so that Ctrl-C does not reach it: everything is stopped in order.
      detached: true,
    });
    for (const stream of [this.process.stdout!, this.process.stderr!])
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.output = (this.output + text).slice(-keptOutputCharacters);
      });
    this.ended = once(this.process, 'close').then(
      ([code, signal]) => `${program} ended (${signal ?? code}). It printed:\n${this.output}`,
      (error: Error) => `${program} could not be started: ${error.message}`,
    );
  }

  get pid(): number {
    return this.process.pid ?? 0;
  }

  private get isRunning(): boolean {
    return this.process.exitCode === null && this.process.signalCode === null;
  }

  /** Resolves once the URL answers 200. */
  async untilReady(url: string): Promise<void> {
    const giveUpAt = Date.now() + readyWithinMs;
    while (this.isRunning && Date.now() < giveUpAt) {
      const answer = await fetch(url, { signal: AbortSignal.timeout(5_000) }).catch(() => undefined);
      await answer?.body?.cancel();
      if (answer?.ok) return;
      await setTimeout(50);
    }
    if (this.isRunning) await this.stop();
    throw new Error(`${this.program} did not become ready. ${await this.ended}`);
  }

  async stop(): Promise<void> {
    if (!this.isRunning) return;
    this.process.kill('SIGTERM');
    const late = new AbortController();
    const forced = setTimeout(stopWithinMs, 'late', { signal: late.signal }).catch(() => '');
    if ((await Promise.race([this.ended, forced])) === 'late') this.process.kill('SIGKILL');
    late.abort();
    await this.ended;
  }
}
