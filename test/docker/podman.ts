import { execFile, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const isInstalled = (command: string): boolean => spawnSync(command, ['--version']).status === 0;

/** runc requires less of the machine than other runtimes. */
const runtime = isInstalled('runc') ? ['--runtime', 'runc'] : [];
/** Lower than the limits of a machine that is itself a container. */
const ulimits = ['--ulimit', 'nofile=1024:4096', '--ulimit', 'nproc=1024:4096'];

/** @returns the output; rejects with the error output if it fails or takes longer than ten minutes */
export const podman = async (...args: string[]): Promise<string> => {
  const { stdout } = await run('podman', [...runtime, ...args], { timeout: 600_000, maxBuffer: 1024 ** 3 });
  return stdout.trim();
};

/** On the network of the host, so that containers reach what a test has started. */
export const runArguments = (...args: string[]): string[] => ['run', '--network', 'host', ...ulimits, ...args];

const copy = (from: string, to: string): void => {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, to);
};

/** Copies a program with the libraries that it is linked to. */
const install = (root: string, program: string, at: string): void => {
  const linked = execFileSync('ldd', [program], { encoding: 'utf8' });
  for (const [library] of linked.matchAll(/\/\S+/g)) copy(library, join(root, library));
  copy(program, join(root, at));
};

/** Imports Node, npm, a shell and other tools of this machine as a base image: all that the Dockerfile needs. */
const importedFromHere = async (image: string): Promise<void> => {
  const root = mkdtempSync(join(tmpdir(), 'cleave-base-'));
  try {
    for (const folder of ['etc', 'home/node', 'root', 'tmp']) mkdirSync(join(root, folder), { recursive: true });
    install(root, process.execPath, '/usr/bin/node');
    install(root, '/bin/sh', '/bin/sh');
    for (const program of ['/usr/bin/env', '/usr/bin/find']) install(root, program, program);
    const npm = realpathSync(execFileSync('which', ['npm'], { encoding: 'utf8' }).trim());
    cpSync(dirname(dirname(npm)), join(root, 'usr/lib/npm'), { recursive: true });
    symlinkSync('../lib/npm/bin/npm-cli.js', join(root, 'usr/bin/npm'));
    // The additional certificate authorities that Node trusts on this machine.
    const trusted = process.env['NODE_EXTRA_CA_CERTS'];
    if (trusted) copy(trusted, join(root, trusted));
    writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n');
    writeFileSync(join(root, 'etc/group'), 'root:x:0:\nnode:x:1000:\n');
    const trust = trusted ? ['--change', `ENV NODE_EXTRA_CA_CERTS=${trusted}`] : [];
    const tar = spawn('tar', ['-C', root, '-c', '.'], { stdio: ['ignore', 'pipe', 'inherit'] });
    const imported = spawn('podman', ['import', ...trust, '-', image], { stdio: [tar.stdout, 'ignore', 'inherit'] });
    const [code] = (await once(imported, 'close')) as [number];
    if (code !== 0) throw new Error(`podman import ended with ${code}`);
  } finally {
    rmSync(root, { recursive: true });
  }
};

/** Provides the base image: pulled from a registry, or else made from this machine. */
export const provideBase = async (image: string): Promise<void> => {
  if (spawnSync('podman', ['image', 'exists', image]).status === 0) return;
  if (spawnSync('podman', ['pull', '--quiet', image], { timeout: 180_000 }).status === 0) return;
  process.stderr.write(`No registry gives ${image}: one is made of what is installed here.\n`);
  await importedFromHere(image);
};
