import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from '@jest/globals';
import { parse, parseAllDocuments } from 'yaml';
import { z } from 'zod';
import { webhooksEnvironment } from '#webhooks';
import { eventually, orSkip } from '#testing';
import { startDoors, type Doors } from '../security/doors.js';
import { faultsOf, unreadBy } from './faults.js';

const folder = 'docker/kubernetes';
const read = (path: string): string => readFileSync(path, 'utf8');

/** The subset of the Kubernetes API that we use. Anything else, such as a misspelled key, is refused. */
const labels = z.record(z.string(), z.string());
const matching = z.strictObject({ matchLabels: labels });
const metadata = z.strictObject({
  name: z.string().regex(/^[a-z][a-z0-9-]*$/),
  namespace: z.literal('cleave').optional(),
  labels: labels.optional(),
});
const httpProbe = (path: string) =>
  z.strictObject({
    httpGet: z.strictObject({ path: z.literal(path), port: z.literal('http') }),
    periodSeconds: z.int().positive(),
    timeoutSeconds: z.int().positive(),
    failureThreshold: z.int().positive(),
  });
const variable = z.union([
  z.strictObject({ name: z.string(), value: z.string() }),
  z.strictObject({
    name: z.string(),
    valueFrom: z.strictObject({
      secretKeyRef: z.strictObject({
        name: z.literal('cleave'),
        key: z.string(),
        optional: z.literal(true).optional(),
      }),
    }),
  }),
]);
const configured = z.strictObject({
  configMapRef: z.strictObject({ name: z.literal('cleave'), optional: z.literal(true) }),
});
const containerPort = z.strictObject({ name: z.string(), containerPort: z.int() });
const container = z.strictObject({
  name: z.literal('app'),
  image: z.string().regex(/^cleave:\d+\.\d+\.\d+/),
  imagePullPolicy: z.literal('IfNotPresent'),
  args: z.tuple([z.string().regex(/^dist\/apps\/[a-z]+\/src\/main\.js$/)]),
  env: z.array(variable),
  envFrom: z.tuple([configured]).optional(),
  securityContext: z.strictObject({
    allowPrivilegeEscalation: z.literal(false),
    readOnlyRootFilesystem: z.literal(true),
    capabilities: z.strictObject({ drop: z.tuple([z.literal('ALL')]) }),
  }),
  resources: z.strictObject({
    requests: z.strictObject({ cpu: z.string(), memory: z.string() }),
    limits: z.strictObject({ memory: z.string() }),
  }),
});
const pod = z.strictObject({
  serviceAccountName: z.literal('cleave'),
  automountServiceAccountToken: z.literal(false),
  enableServiceLinks: z.literal(false),
  securityContext: z.strictObject({
    runAsNonRoot: z.literal(true),
    runAsUser: z.literal(1000),
    runAsGroup: z.literal(1000),
    seccompProfile: z.strictObject({ type: z.literal('RuntimeDefault') }),
  }),
});
const template = <Spec extends z.ZodType>(spec: Spec) => z.strictObject({ metadata: z.strictObject({ labels }), spec });
const kind = <Kind extends string, Shape extends z.ZodRawShape>(apiVersion: string, name: Kind, shape: Shape) =>
  z.strictObject({ apiVersion: z.literal(apiVersion), kind: z.literal(name), metadata, ...shape });
const port = z.strictObject({ protocol: z.enum(['TCP', 'UDP']), port: z.int() });
const peer = z.strictObject({
  podSelector: matching.optional(),
  namespaceSelector: z.union([matching, z.strictObject({})]).optional(),
  ipBlock: z.strictObject({ cidr: z.string(), except: z.array(z.string()) }).optional(),
});

const account = kind('v1', 'ServiceAccount', { automountServiceAccountToken: z.literal(false) });
const job = kind('batch/v1', 'Job', {
  spec: z.strictObject({
    backoffLimit: z.int(),
    activeDeadlineSeconds: z.int(),
    ttlSecondsAfterFinished: z.int(),
    template: template(pod.extend({ restartPolicy: z.literal('Never'), containers: z.tuple([container]) })),
  }),
});
const deployment = kind('apps/v1', 'Deployment', {
  spec: z.strictObject({
    revisionHistoryLimit: z.int(),
    strategy: z.strictObject({
      rollingUpdate: z.strictObject({ maxSurge: z.literal(1), maxUnavailable: z.literal(0) }),
    }),
    selector: matching,
    template: template(
      pod.extend({
        terminationGracePeriodSeconds: z.int(),
        topologySpreadConstraints: z.array(z.record(z.string(), z.unknown())),
        containers: z.tuple([
          container.extend({
            ports: z.array(containerPort),
            lifecycle: z.strictObject({
              preStop: z.strictObject({ sleep: z.strictObject({ seconds: z.int().positive() }) }),
            }),
            startupProbe: httpProbe('/health/live'),
            livenessProbe: httpProbe('/health/live'),
            readinessProbe: httpProbe('/health/ready'),
          }),
        ]),
      }),
    ),
  }),
});
const service = kind('v1', 'Service', {
  spec: z.strictObject({
    clusterIP: z.literal('None').optional(),
    selector: labels,
    ports: z.array(z.strictObject({ name: z.string(), port: z.int(), targetPort: z.string() })),
  }),
});
const budget = kind('policy/v1', 'PodDisruptionBudget', {
  spec: z.strictObject({ maxUnavailable: z.literal(1), selector: matching }),
});
const autoscaler = kind('autoscaling/v2', 'HorizontalPodAutoscaler', {
  spec: z.strictObject({
    scaleTargetRef: z.strictObject({
      apiVersion: z.literal('apps/v1'),
      kind: z.literal('Deployment'),
      name: z.string(),
    }),
    minReplicas: z.int().min(2),
    maxReplicas: z.int(),
    metrics: z.tuple([
      z.strictObject({
        type: z.literal('Resource'),
        resource: z.strictObject({
          name: z.literal('cpu'),
          target: z.strictObject({ type: z.literal('AverageValue'), averageValue: z.string().regex(/^\d+m$/) }),
        }),
      }),
      z.strictObject({
        type: z.literal('Pods'),
        pods: z.strictObject({
          metric: z.strictObject({ name: z.string() }),
          target: z.strictObject({ type: z.literal('AverageValue'), averageValue: z.string() }),
        }),
      }),
    ]),
    behavior: z.strictObject({ scaleDown: z.strictObject({ stabilizationWindowSeconds: z.int() }) }),
  }),
});
const policy = kind('networking.k8s.io/v1', 'NetworkPolicy', {
  spec: z.strictObject({
    podSelector: z.union([matching, z.strictObject({})]),
    policyTypes: z.array(z.enum(['Ingress', 'Egress'])),
    ingress: z.array(z.strictObject({ from: z.array(peer).optional(), ports: z.array(port) })).optional(),
    egress: z.array(z.strictObject({ to: z.array(peer).optional(), ports: z.array(port) })).optional(),
  }),
});
const resource = z.discriminatedUnion('kind', [account, job, deployment, service, budget, autoscaler, policy]);
type Resource = z.output<typeof resource>;
type Kind = Resource['kind'];

const itRendered = orSkip(
  spawnSync('kubectl', ['version', '--client']).status === 0,
  it,
  'There is no kubectl to put the Kubernetes manifests together: install it (https://kubernetes.io/docs/tasks/tools)',
);

const overlays = ['monolith', 'split'] as const;
const rendered = new Map<string, Resource[]>();

/** The resources that would be applied, as rendered by `kubectl kustomize`. */
const resourcesOf = (overlay: string): Resource[] => {
  const known = rendered.get(overlay);
  if (known) return known;
  const text = execFileSync('kubectl', ['kustomize', `${folder}/overlays/${overlay}`], { encoding: 'utf8' });
  const found = parseAllDocuments(text).map((document) => resource.parse(document.toJS()));
  rendered.set(overlay, found);
  return found;
};

const ofKind = <Wanted extends Kind>(overlay: string, wanted: Wanted): Extract<Resource, { kind: Wanted }>[] =>
  resourcesOf(overlay).filter((it): it is Extract<Resource, { kind: Wanted }> => it.kind === wanted);

const nameOf = (selector: Record<string, string>): string => selector['app.kubernetes.io/name'] ?? '';
const namesIn = (overlay: string): string[] => ofKind(overlay, 'Deployment').map(({ metadata: { name } }) => name);
const appOf = ({ spec }: z.output<typeof deployment | typeof job>): z.output<typeof container> =>
  spec.template.spec.containers[0];

const exampleSecrets = (): Record<string, string> =>
  (parse(read(`${folder}/secret.example.yaml`)) as { stringData: Record<string, string> }).stringData;

const exampleConfig = (): Record<string, string> =>
  (parse(read(`${folder}/config.example.yaml`)) as { data: Record<string, string> }).data;

const mainOf = (it: z.output<typeof deployment | typeof job>): string => appOf(it).args[0];
const secretValues: Record<string, string> = {
  DATABASE_URL: 'postgres://cleave:password@postgres.example:5432/cleave',
  CACHE_REDIS_URL: 'redis://redis.example:6379',
  RATE_LIMIT_REDIS_URL: 'redis://limits.example:6379',
  ACCESS_DATABASE_URL: 'postgres://cleave:password@postgres.example:5432/cleave',
  ADMIN_KEY: 'one-of-as-many-characters-as-it-must-have',
  SERVICE_SECRET: 'one-of-as-many-characters-as-it-must-have',
};
const environmentOf = (it: z.output<typeof deployment | typeof job>): Record<string, string> =>
  Object.fromEntries(
    appOf(it).env.map((each) => [each.name, 'value' in each ? each.value : (secretValues[each.name] ?? '')]),
  );

/** Several starts, one after the other, on a busy machine. */
const startsTimeoutMs = 300_000;

let doors: Doors | undefined;
afterAll(() => doors?.stop());

describe.each(overlays)('the Kubernetes manifests: %s', (overlay) => {
  itRendered('contain only known fields, and unique names', () => {
    const names = resourcesOf(overlay).map(({ kind: of, metadata: { name } }) => `${of} ${name}`);
    expect(names.length).toBeGreaterThan(10);
    expect(new Set(names).size).toBe(names.length);
    for (const {
      metadata: { namespace },
    } of resourcesOf(overlay))
      expect(namespace).toBe('cleave');
  });

  itRendered('run the apps of the repository in its version, and the migration job', () => {
    const { version } = JSON.parse(read('package.json')) as { version: string };
    for (const it of [...ofKind(overlay, 'Deployment'), ...ofKind(overlay, 'Job')]) {
      expect(mainOf(it)).toBe(`dist/apps/${it.metadata.name}/src/main.js`);
      expect(existsSync(mainOf(it).replace(/^dist\/(.*)\.js$/, '$1.ts'))).toBe(true);
      expect(appOf(it).image).toBe(`cleave:${version}`);
    }
    expect(ofKind(overlay, 'Job').map(({ metadata: { name } }) => name)).toEqual(['migrate']);
  });

  itRendered('have one service, disruption budget, autoscaler and network policy per deployment', () => {
    const names = namesIn(overlay);
    for (const {
      metadata: { name },
      spec,
    } of ofKind(overlay, 'Deployment')) {
      expect(nameOf(spec.selector.matchLabels)).toBe(name);
      expect(spec.template.metadata.labels).toMatchObject(spec.selector.matchLabels);
      // Prometheus selects targets by this label.
      expect(spec.template.metadata.labels['app.kubernetes.io/part-of']).toBe('cleave');
    }
    expect(ofKind(overlay, 'Service').map(({ spec }) => nameOf(spec.selector))).toEqual(names);
    expect(ofKind(overlay, 'PodDisruptionBudget').map(({ spec }) => nameOf(spec.selector.matchLabels))).toEqual(names);
    expect(ofKind(overlay, 'HorizontalPodAutoscaler').map(({ spec }) => spec.scaleTargetRef.name)).toEqual(names);
    for (const name of names) expect(ofKind(overlay, 'NetworkPolicy').map((it) => it.metadata.name)).toContain(name);
  });

  itRendered('scale out when pods use between 500 and 900 millicores of CPU on average', () => {
    for (const { spec } of ofKind(overlay, 'HorizontalPodAutoscaler')) {
      const [{ resource }] = spec.metrics;
      expect(Number.parseInt(resource.target.averageValue, 10)).toBeGreaterThan(500);
      expect(Number.parseInt(resource.target.averageValue, 10)).toBeLessThan(900);
    }
  });

  itRendered('allow enough time to stop, to start and to answer probes', () => {
    for (const { spec } of ofKind(overlay, 'Deployment')) {
      const { terminationGracePeriodSeconds: grace, containers } = spec.template.spec;
      const [{ lifecycle, startupProbe, readinessProbe }] = containers;
      // The compose files allow 35 seconds.
      expect(grace).toBeGreaterThanOrEqual(lifecycle.preStop.sleep.seconds + 35);
      // The app answers within a second even while it waits for its dependencies; a busy machine may take longer to
      // load it.
      expect(startupProbe.periodSeconds * startupProbe.failureThreshold).toBeGreaterThanOrEqual(60);
      // The readiness check itself may take two seconds.
      expect(readinessProbe.timeoutSeconds).toBeGreaterThan(2);
    }
  });

  itRendered('expose the ports on which the apps listen', () => {
    for (const it of ofKind(overlay, 'Deployment')) {
      const [{ ports }] = it.spec.template.spec.containers;
      const listening = Object.entries(environmentOf(it))
        .filter(([name]) => name.endsWith('_LISTEN'))
        .map(([, address]) => Number(address.split(':').at(-1)));
      expect(new Set(ports.map(({ containerPort: number }) => number))).toEqual(new Set([3000, ...listening]));
      const offered = ofKind(overlay, 'Service').find(({ metadata: { name } }) => name === it.metadata.name)!;
      expect(
        Object.fromEntries(offered.spec.ports.map(({ port: number, targetPort }) => [targetPort, number])),
      ).toEqual(Object.fromEntries(ports.map(({ name, containerPort: number }) => [name, number])));
    }
  });

  itRendered('allow exactly the connections between services that are configured', () => {
    const asked = ofKind(overlay, 'Deployment').flatMap((it) =>
      Object.entries(environmentOf(it))
        .filter(([name]) => /_(?:AT|URL)$/.test(name) && secretValues[name] === undefined)
        .map(([, address]) => new URL(address))
        .map(({ hostname, port: number }) => `${it.metadata.name} > ${hostname}:${number}`),
    );
    const own = ofKind(overlay, 'NetworkPolicy').filter(({ metadata: { name } }) => namesIn(overlay).includes(name));
    const peersOf = (peers: z.output<typeof peer>[] | undefined): string[] =>
      peers?.map(({ podSelector }) => nameOf(podSelector?.matchLabels ?? {})) ?? ['*'];
    const incoming = own.flatMap(({ metadata: { name }, spec }) =>
      (spec.ingress ?? []).flatMap(({ from, ports }) =>
        peersOf(from).flatMap((who) => ports.map((it) => `${who} > ${name}:${it.port}`)),
      ),
    );
    const outgoing = own.flatMap(({ metadata: { name }, spec }) =>
      (spec.egress ?? []).flatMap(({ to, ports }) =>
        peersOf(to).flatMap((whom) => ports.map((it) => `${name} > ${whom}:${it.port}`)),
      ),
    );
    expect(outgoing.sort()).toEqual([...new Set(asked)].sort());
    const door = overlay === 'monolith' ? 'monolith' : 'gateway';
    const grpc = overlay === 'monolith' ? 'monolith' : 'order';
    expect(incoming.sort()).toEqual([...new Set(asked), `* > ${door}:3000`, `* > ${grpc}:5001`].sort());
    for (const { spec } of own)
      expect(nameOf('matchLabels' in spec.podSelector ? spec.podSelector.matchLabels : {})).not.toBe('');
  });

  itRendered('allow access to databases and the internet only where it is configured', () => {
    for (const it of [...ofKind(overlay, 'Deployment'), ...ofKind(overlay, 'Job')]) {
      const variables = Object.keys(environmentOf(it));
      const { labels: given } = it.spec.template.metadata;
      const uses = (what: string): boolean => given[`cleave/uses-${what}`] === 'true';
      expect([it.metadata.name, uses('postgres')]).toEqual([
        it.metadata.name,
        variables.some((name) => name.endsWith('DATABASE_URL')),
      ]);
      expect([it.metadata.name, uses('redis')]).toEqual([
        it.metadata.name,
        variables.some((name) => name.endsWith('REDIS_URL')),
      ]);
      const speaksToStrangers = ['monolith', 'payment', 'webhooks'].includes(it.metadata.name);
      expect([it.metadata.name, uses('internet')]).toEqual([it.metadata.name, speaksToStrangers]);
    }
    const policyOf = (wanted: string) =>
      ofKind(overlay, 'NetworkPolicy').find(({ metadata: { name } }) => name === wanted)!;
    // The ports that webhooks may use have to be open.
    const ports = policyOf('internet').spec.egress!.flatMap((it) => it.ports.map(({ port: number }) => number));
    expect(ports).toEqual(webhooksEnvironment.WEBHOOKS_PORTS.parse(undefined));
    const closed = policyOf('nothing');
    expect(closed.spec).toEqual({ podSelector: {}, policyTypes: ['Ingress', 'Egress'] });
  });

  itRendered('use only secrets that the example describes', () => {
    const taken = [...ofKind(overlay, 'Deployment'), ...ofKind(overlay, 'Job')].flatMap((it) =>
      appOf(it).env.flatMap((each) => ('valueFrom' in each ? [each.valueFrom.secretKeyRef.key] : [])),
    );
    expect(Object.keys(exampleSecrets())).toEqual(expect.arrayContaining([...new Set(taken)]));
  });

  itRendered(
    'give each app every variable that it requires, and none that it does not read',
    async () => {
      for (const it of ofKind(overlay, 'Deployment')) {
        const { name } = it.metadata;
        const told = appOf(it).envFrom ? exampleConfig() : {};
        const given = { HOST: '0.0.0.0', ...told, ...environmentOf(it) };
        expect([name, await faultsOf(mainOf(it), { ...given, PORT: '!' })]).toEqual([name, ['PORT']]);
        expect([name, await unreadBy(mainOf(it), Object.keys(given))]).toEqual([name, []]);
      }
      expect(await unreadBy('dist/apps/migrate/src/main.js', ['DATABASE_URL'])).toEqual([]);
    },
    startsTimeoutMs,
  );

  itRendered('let the public services be configured with rate limit, OIDC and CORS settings', () => {
    const deployments = ofKind(overlay, 'Deployment');
    const doors = deployments.filter((it) => appOf(it).envFrom !== undefined);
    expect(doors.map((it) => it.metadata.name)).toEqual(overlay === 'monolith' ? ['monolith'] : ['gateway', 'order']);
    const counting = deployments.filter((it) => 'RATE_LIMIT_REDIS_URL' in environmentOf(it));
    expect(counting).toEqual(doors);
    const oidc = ['OIDC_ISSUER', 'OIDC_AUDIENCE', 'OIDC_TENANT_CLAIM'];
    expect(Object.keys(exampleConfig())).toEqual(['RATE_LIMIT', ...oidc, 'CORS_ORIGINS']);
  });

  itRendered(
    'scale by metrics of the adapter that the apps export',
    async () => {
      const { rules } = parse(read(`${folder}/prometheus-adapter.yaml`)) as {
        rules: { custom: { name: { as: string }; seriesQuery: string; metricsQuery: string }[] };
      };
      doors ??= await startDoors();
      for (const { spec } of ofKind(overlay, 'HorizontalPodAutoscaler')) {
        const { name } = spec.scaleTargetRef;
        // The monolith contains the modules of all others.
        const [door, asked] = doorOf[name] ?? ['monolith', '/orders'];
        const url = doors.urls[door];
        const { seriesQuery, metricsQuery } = rules.custom.find(
          (it) => it.name.as === spec.metrics[1].pods.metric.name,
        )!;
        const [found] = selectorsIn(seriesQuery);
        const [followed, ...others] = selectorsIn(metricsQuery);
        const atRest = await measuredAt(url);
        for (const it of [found!, ...others]) expect([name, sumOf(it, atRest)]).toEqual([name, expect.any(Number)]);
        const before = sumOf(followed!, atRest) ?? 0;
        await whileAsked(`${url}${asked}`, () =>
          eventually(async () => expect(sumOf(followed!, await measuredAt(url))).toBeGreaterThan(before), 10_000),
        );
      }
    },
    startsTimeoutMs,
  );
});

/** Services that need no database: the process to ask, and the path. */
const doorOf: Record<string, [keyof Doors['urls'], string]> = {
  gateway: ['gateway', '/cache?key=x'],
  cache: ['service', '/cache?key=x'],
};

interface Selector {
  series: string;
  labels: string[];
}

const selectorsIn = (query: string): Selector[] =>
  [...query.matchAll(/([a-z_]+)\{(.*?)\}/g)].map(([, series, selected]) => ({
    series: series!,
    labels: [...selected!.matchAll(/\w+="[^"]+"/g)].map(([label]) => label),
  }));

const measuredAt = async (url: string): Promise<string> => (await fetch(`${url}/metrics`)).text();

/** The sum of the selected series; undefined if there are none. */
const sumOf = ({ series, labels }: Selector, measured: string): number | undefined => {
  const values = measured
    .split('\n')
    .filter((line) => line.startsWith(`${series}{`) && labels.every((label) => line.includes(label)))
    .map((line) => Number(/\} (\S+)/.exec(line)![1]));
  return values.length > 0 ? values.reduce((sum, value) => sum + value, 0) : undefined;
};

/** Sends many concurrent requests while `act` runs. */
const whileAsked = async (url: string, act: () => Promise<void>): Promise<void> => {
  let isOver = false;
  const ask = async (): Promise<void> => {
    while (!isOver) await (await fetch(url)).arrayBuffer();
  };
  const asking = Promise.all(Array.from({ length: 50 }, ask));
  try {
    await act();
  } finally {
    isOver = true;
    await asking;
  }
};

it.each(['monolith', 'order'])('%s refuses to start with the public secrets of the example', async (app) => {
  const elsewhere = { INVENTORY_AT: 'tcp://inventory:4002', PAYMENT_AT: 'tcp://payment:4004' };
  const given = { HOST: '0.0.0.0', PORT: '!', ...elsewhere, ...exampleSecrets() };
  const faults = await faultsOf(`dist/apps/${app}/src/main.js`, given);
  expect(faults.toSorted()).toEqual(['ADMIN_KEY', 'PORT', 'SERVICE_SECRET']);
});

it('metrics in Kubernetes have the labels that rules, dashboards and autoscalers use', () => {
  const { scrape_configs: configs } = parse(read(`${folder}/prometheus-scrape.yaml`)) as {
    scrape_configs: { job_name: string; relabel_configs: { regex?: string; target_label?: string }[] }[];
  };
  const rules = read('docker/observability/rules.yml');
  expect(new Set([...rules.matchAll(/\bjob="(\w+)"/g)].map(([, job]) => job))).toEqual(
    new Set(configs.map((it) => it.job_name)),
  );
  const [{ relabel_configs: relabelled }] = configs as [(typeof configs)[number]];
  expect(relabelled.flatMap((it) => it.target_label ?? [])).toEqual(['service', 'namespace', 'pod']);
  const kept = relabelled.flatMap((it) => it.regex ?? []);
  expect(read(`${folder}/component/deployment.yaml`)).toContain(`{ name: ${kept.join()}, containerPort: 3000 }`);
});

it('the metrics of the autoscalers are documented in the README', () => {
  const { rules } = parse(read(`${folder}/prometheus-adapter.yaml`)) as {
    rules: { custom: { name: { as: string } }[] };
  };
  const names = rules.custom.map(({ name }) => name.as);
  expect(names).not.toEqual([]);
  for (const name of names) expect(read('README.md')).toContain(`\`${name}\``);
});
