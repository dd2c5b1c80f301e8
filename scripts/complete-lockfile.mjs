// npm omits optional packages that the registry in use does not have (builds for other platforms, on a mirror) from
// package-lock.json, and `npm ci` then refuses the lockfile. This adds them, with the platform that their names tell. Their
// integrity is missing until `npm install` with a registry that has them adds it.
import { readFileSync, writeFileSync } from 'node:fs';

const lockfile = JSON.parse(readFileSync('package-lock.json', 'utf8'));
const { packages } = lockfile;

const platform =
  /(android|darwin|freebsd|linux|openharmony|win32)-(arm64|arm|ia32|loong64|ppc64|riscv64|s390x|x64)(?:-(\w+))?$/;
const libcs = { gnu: 'glibc', musl: 'musl' };

/** Where `require` in a folder looks for a package, nearest first. */
const searched = (folder, name) => {
  const parents = folder.split('/node_modules/').map((_, at, parts) => parts.slice(0, parts.length - at));
  return [...parents.map((parts) => `${parts.join('/node_modules/')}/node_modules/${name}`), `node_modules/${name}`];
};

const entered = [];
for (const [folder, { optionalDependencies = {}, dev }] of Object.entries(packages))
  for (const [name, version] of Object.entries(optionalDependencies)) {
    if (searched(folder, name).some((path) => path in packages)) continue;
    const [, os, cpu, libc] = platform.exec(name) ?? [];
    if (!os || !/^\d/.test(version)) throw new Error(`${name}@${version} does not say its platform: enter it by hand`);
    packages[`node_modules/${name}`] = {
      version,
      cpu: [cpu],
      ...(dev && { dev }),
      ...(libcs[libc] && { libc: [libcs[libc]] }),
      optional: true,
      os: [os],
    };
    entered.push(name);
  }

if (entered.length > 0) {
  lockfile.packages = Object.fromEntries(Object.entries(packages).toSorted(([a], [b]) => a.localeCompare(b, 'en')));
  writeFileSync('package-lock.json', `${JSON.stringify(lockfile, null, 2)}\n`);
}
console.log(`Entered ${entered.length} packages`);
