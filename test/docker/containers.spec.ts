import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from '@jest/globals';
import { parse } from 'yaml';
import { commandsIn } from '../support/runbooks.js';
import { compose, composeIn, type Compose, type Service } from './compose.js';
import { faultsOf, unreadBy } from './faults.js';

const read = (path: string): string => readFileSync(path, 'utf8');

const { projects } = JSON.parse(read('nest-cli.json')) as { projects: Record<string, { type: string }> };
const apps = Object.keys(projects).filter((name) => projects[name]?.type === 'application');

const monolith = (): Compose => compose('compose.monolith.yaml');
const split = (): Compose => compose('compose.split.yaml');
const splitRedis = (): Compose => compose('compose.split.yaml', 'compose.split-redis.yaml');
const splitNats = (): Compose => compose('compose.split.yaml', 'compose.split-nats.yaml');
const observability = 'compose.observability.yaml';
const all: [string, () => Compose][] = [
  ['monolith', monolith],
  ['split', split],
  ['split over Redis', splitRedis],
  ['split with NATS', splitNats],
  ['split behind HAProxy', () => compose('compose.split.yaml', 'compose.split-haproxy.yaml')],
  ['monolith, watched', () => compose('compose.monolith.yaml', observability)],
  [
    'split over Redis with NATS, watched',
    () => compose('compose.split.yaml', 'compose.split-redis.yaml', 'compose.split-nats.yaml', observability),
  ],
];

const ours = ({ services }: Compose): [string, Service][] =>
  Object.entries(services).filter(([, service]) => service.build !== undefined);

const dockerfile = read('docker/Dockerfile')
  .replaceAll(/^#.*\n/gm, '')
  .replaceAll(/\\\n\s*/g, '')
  .split('\n')
  .filter((line) => line.trim() !== '')
  .map((line) => ({ instruction: line.split(' ', 1)[0] as string, rest: line.slice(line.indexOf(' ') + 1) }));
const stages = dockerfile.reduce<(typeof dockerfile)[]>((found, line) => {
  if (line.instruction === 'FROM') found.push([]);
  found.at(-1)?.push(line);
  return found;
}, []);
const image = stages.at(-1) as typeof dockerfile;
const inImage = (instruction: string): string[] =>
  image.filter((line) => line.instruction === instruction).map(({ rest }) => rest);

/** The app of a service: its command, or the default command of the image. */
const mainOf = ({ command }: Service): string => (command ?? (JSON.parse(inImage('CMD')[0]!) as string[])).join(' ');
const imageEnvironment = Object.fromEntries(
  inImage('ENV').flatMap((line) => line.split(' ').map((pair) => pair.split('=') as [string, string])),
);

const environmentOf = ({ environment }: Service): Record<string, string> => {
  const { HOST, PORT } = imageEnvironment as Record<'HOST' | 'PORT', string>;
  return { HOST, PORT, ...environment };
};

/** Several starts, one after the other, on a busy machine. */
const startsTimeoutMs = 300_000;

describe.each(all)('the compose file: %s', (_name, composed) => {
  it('is well-formed, and refers only to what exists', () => {
    const { services, volumes } = composed();
    for (const service of Object.values(services)) {
      for (const name of Object.keys(service.depends_on ?? {})) {
        const isOurs = services[name]?.build !== undefined;
        // Our services have the health check of their image.
        expect(isOurs || services[name]?.healthcheck !== undefined).toBe(true);
      }
      for (const volume of service.volumes ?? [])
        if (!volume.startsWith('./')) expect(Object.keys(volumes)).toContain(volume.split(':')[0]);
      if (service.build) expect(existsSync(`docker/${service.build.context}/${service.build.dockerfile}`)).toBe(true);
      expect(service.healthcheck ?? service.build).toBeDefined();
    }
    for (const [, service] of ours(composed()))
      expect(existsSync(mainOf(service).replace(/^dist\/(.*)\.js$/, '$1.ts'))).toBe(true);
  });

  it('publishes its ports on this machine only: REST, and gRPC if order is a separate service', () => {
    const { services } = composed();
    const published = Object.values(services).flatMap(({ ports }) => ports ?? []);
    const grpc = services['order'] ? ['127.0.0.1:5001:5001'] : [];
    const edge = services['haproxy'] ? ['127.0.0.1:8080:8080'] : [];
    const watching = services['prometheus'] ? ['127.0.0.1:9090:9090', '127.0.0.1:3030:3000'] : [];
    expect(published).toEqual([`127.0.0.1:3000:${imageEnvironment['PORT']}`, ...grpc, ...edge, ...watching]);
  });

  it(
    'gives each app every variable that it requires',
    async () => {
      for (const [name, service] of ours(composed())) {
        // An app reports all faults in its environment together, so PORT is made invalid to keep it from starting.
        const faults = await faultsOf(mainOf(service), { ...environmentOf(service), PORT: '!' });
        expect([name, faults]).toEqual([name, ['PORT']]);
      }
    },
    startsTimeoutMs,
  );

  it('uses the names of its services, and the ports on which they listen', () => {
    const { services } = composed();
    const port = imageEnvironment['PORT'];
    for (const [, { environment = {} }] of ours(composed())) {
      for (const [variable, value] of Object.entries(environment)) {
        // Further addresses of a server list lack the protocol.
        const [first, ...more] = value.split(',');
        if (!URL.canParse(first!) || variable.endsWith('_LISTEN')) continue;
        const { protocol, hostname, port: asked } = new URL(first!);
        const hosts = [hostname, ...more.map((it) => it.split(':')[0]!)];
        expect([variable, Object.keys(services)]).toEqual([variable, expect.arrayContaining(hosts)]);
        if (protocol === 'http:') expect(asked).toBe(port);
        if (protocol === 'tcp:') {
          const listen = services[hostname]?.environment?.[`${hostname.toUpperCase()}_LISTEN`];
          expect(listen).toBe(`tcp://0.0.0.0:${asked}`);
        }
      }
    }
  });
});

describe.each([
  ['monolith', ['monolith']],
  ['split', ['gateway', 'order']],
] as const)('the public services of the compose file: %s', (name, doors) => {
  const file = `compose.${name}.yaml`;
  const told = {
    RATE_LIMIT: '600/minute',
    RATE_LIMIT_REDIS_URL: 'redis://limits.example:6379',
    OIDC_ISSUER: 'https://issuer.example',
    OIDC_AUDIENCE: 'cleave',
    OIDC_TENANT_CLAIM: 'org',
    CORS_ORIGINS: 'https://shop.example',
  };

  it('take rate limit, OIDC and CORS settings from the shell', () => {
    const { services } = composeIn(told, file);
    for (const door of doors) expect(services[door]!.environment).toMatchObject(told);
    const others = Object.keys(services).filter((it) => !(doors as readonly string[]).includes(it));
    for (const other of others)
      for (const variable of Object.keys(told)) expect(services[other]!.environment ?? {}).not.toHaveProperty(variable);
    for (const variable of Object.keys(told))
      expect(read(`docker/${file}`)).toMatch(new RegExp(`^#.*${variable}\\b`, 'm'));
  });

  it('accept those settings', async () => {
    for (const door of doors) {
      const service = composeIn(told, file).services[door]!;
      expect(await faultsOf(mainOf(service), { ...environmentOf(service), PORT: '!' })).toEqual(['PORT']);
    }
  });
});

describe('scaled services of the split compose file', () => {
  it('publish one port of this machine per instance', () => {
    const { services } = composeIn({ GATEWAY_PORTS: '3000-3002', ORDER_GRPC_PORTS: '5001-5002' }, 'compose.split.yaml');
    const published = Object.entries(services).flatMap(([name, { ports = [] }]) => ports.map((it) => [name, it]));
    expect(published).toEqual([
      ['gateway', '127.0.0.1:3000-3002:3000'],
      ['order', '127.0.0.1:5001-5002:5001'],
    ]);
  });
});

describe('mounted files', () => {
  const mounted = (composed: Compose): string[] =>
    Object.values(composed.services)
      .flatMap(({ volumes }) => volumes ?? [])
      .filter((volume) => volume.startsWith('./'));

  it('are the generated HAProxy configuration, and the configuration of Prometheus and Grafana', () => {
    expect(mounted(compose('compose.split.yaml', 'compose.split-haproxy.yaml'))).toEqual([
      './haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro',
    ]);
    expect(existsSync('docker/haproxy.cfg')).toBe(true);
    expect(mounted(compose('compose.split.yaml', observability))).toEqual([
      './observability/prometheus.yml:/etc/prometheus/prometheus.yml:ro',
      './observability/rules.yml:/etc/prometheus/rules.yml:ro',
      './observability/grafana/provisioning:/etc/grafana/provisioning:ro',
      './observability/grafana/dashboards:/etc/grafana/dashboards:ro',
    ]);
  });

  it('has Prometheus scrape every app', () => {
    const { scrape_configs: configs } = parse(read('docker/observability/prometheus.yml')) as {
      scrape_configs: { dns_sd_configs: { names: string[] }[] }[];
    };
    const apps = [monolith(), split()].flatMap(ours).map(([name]) => name);
    expect(configs[0]!.dns_sd_configs[0]!.names.toSorted()).toEqual(apps.toSorted());
  });
});

describe('the services', () => {
  it(
    'read every variable that they are given',
    async () => {
      for (const [name, service] of [monolith(), splitRedis(), splitNats()].flatMap(ours)) {
        const given = Object.keys(environmentOf(service));
        expect([name, await unreadBy(mainOf(service), given)]).toEqual([name, []]);
      }
    },
    startsTimeoutMs,
  );

  it('are the apps of the repository', () => {
    const started = [monolith(), split()].flatMap(ours).map(([, service]) => mainOf(service));
    // `migrate` is a job, which is not in the compose files.
    started.push('dist/apps/migrate/src/main.js');
    expect(started.sort()).toEqual(apps.map((app) => `dist/apps/${app}/src/main.js`).sort());
  });

  it('are named as in the commands of docs/operations.md', () => {
    const commands = commandsIn('With Compose', 'sh').join('').split('\n');
    const named = commands.flatMap((it) => /^docker compose (?:stop|exec -T|run --rm) (\S+)/.exec(it)?.[1] ?? []);
    expect(new Set(named)).toEqual(new Set(['monolith', 'postgres']));
    expect(Object.keys(monolith().services)).toEqual(expect.arrayContaining(named));
    const url = (monolith().services['monolith'] as Service).environment!['DATABASE_URL'];
    expect(url).toMatch(/^postgres:\/\/cleave:.*\/cleave$/);
    const [, section] = read('docs/operations.md').split('\n## With Compose\n');
    const [stopped, migrated] = [...section!.matchAll(/`((?:[a-z]+ ){3,}[a-z]+)`/g)].map(([, names]) =>
      names!.split(' '),
    );
    expect(stopped!.sort()).toEqual(
      ours(split())
        .map(([name]) => name)
        .sort(),
    );
    const owners = ours(split()).filter(
      ([name, { environment }]) => environment![`${name.toUpperCase()}_DATABASE_URL`],
    );
    expect(migrated!.sort()).toEqual(owners.map(([name]) => name).sort());
  });

  it('use a single queue in the split over Redis', () => {
    const addresses = ours(splitRedis()).flatMap(([, { environment = {} }]) =>
      Object.entries(environment).filter(
        ([variable]) => /_(?:AT|LISTEN)$/.test(variable) && !variable.includes('GRPC'),
      ),
    );
    expect(new Set(addresses.map(([, address]) => address))).toEqual(new Set(['redis://queue:6379']));
    expect(splitRedis().services['queue']?.command).toContain('noeviction');
  });
});

describe('the image', () => {
  it('is built, in all stages, on the Node version that runs the tests', () => {
    const bases = dockerfile.filter(({ instruction }) => instruction === 'FROM').map(({ rest }) => rest.split(' ')[0]);
    expect(new Set(bases)).toEqual(new Set([`node:${process.versions.node.split('.')[0]}-slim`]));
  });

  it('contains production packages only', () => {
    const copied = inImage('COPY').filter((line) => line.includes('node_modules'));
    expect(copied).toEqual(['--from=packages /app/node_modules node_modules']);
    const packages = stages.find(([from]) => from?.rest.endsWith(' AS packages'))!;
    const installs = packages.filter(({ instruction }) => instruction === 'RUN').map(({ rest }) => rest);
    expect(installs).toEqual([
      'npm ci --omit=dev --omit=optional --ignore-scripts',
      expect.stringMatching(/^find node_modules .*-name '\*\.map'.* -delete$/),
    ]);
    expect(inImage('RUN')).toEqual([]);
  });

  it('runs as an unprivileged user, receives signals directly, and has a health check', () => {
    expect(inImage('USER')).toEqual(['node']);
    for (const form of [...inImage('ENTRYPOINT'), ...inImage('CMD')])
      expect(JSON.parse(form)).toEqual(expect.any(Array));
    const [, check] = inImage('HEALTHCHECK')[0]!.split(' CMD ');
    expect(JSON.parse(check!)).toEqual(['node', '-e', expect.stringContaining('/health/ready')]);
    expect(imageEnvironment).toMatchObject({ HOST: '0.0.0.0', PORT: inImage('EXPOSE')[0] });
  });

  describe('on SIGTERM', () => {
    const endOf = async (program: string): Promise<unknown[]> => {
      const [, ...options] = JSON.parse(inImage('ENTRYPOINT')[0]!) as string[];
      const started = `console.log('started'); setInterval(() => {}, 1_000)`;
      const child = spawn(process.execPath, [...options, '--input-type=module', '--eval', `${program}; ${started}`]);
      await once(child.stdout, 'data');
      child.kill('SIGTERM');
      return once(child, 'exit');
    };

    it('ends before the app has loaded, and while it migrates', async () => {
      expect(await endOf('')).toEqual([143, null]);
    });

    it('leaves the end to the app that has loaded, which finishes the work in flight', async () => {
      const source = pathToFileURL('libs/rest/src/process.ts').href;
      const closing = `import { closeOnSignals } from '${source}'; closeOnSignals({ close: async () => undefined })`;
      expect(await endOf(closing)).toEqual([0, null]);
    });
  });

  it('copies only what exists and is not ignored', () => {
    const taken = stages
      .flat()
      .filter(({ instruction, rest }) => instruction === 'COPY' && !rest.startsWith('--from='))
      .flatMap(({ rest }) => rest.split(' ').slice(0, -1));
    const allowed = read('.dockerignore')
      .split('\n')
      .filter((line) => line.startsWith('!'))
      .map((line) => line.slice(1));
    expect(read('.dockerignore').split('\n')).toContain('*');
    expect([...new Set(taken)].sort()).toEqual(allowed.sort());
    for (const path of taken) expect(existsSync(path)).toBe(true);
  });
});
