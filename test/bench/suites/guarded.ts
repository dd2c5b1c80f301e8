import { SeededRandom } from '#testing';
import type { Bench } from '../bench.js';
import { measurePlacing, prepareOrders, warmUp } from '../measure.js';
import { Shelf } from '../shelf.js';
import { endSystem, startEcho, startMonolith, startOurs, type System } from '../systems.js';
import { takeTurns } from '../turns.js';
import { spreadWorkload, type CatalogueEntry } from '../workloads.js';

export const guardedNames = { off: 'off', sampled: 'guarded', traced: 'guarded, all traced' };
export const guardedPlacing = 'spread, off and guarded';

const adminKey = 'the-administrator-of-a-benchmark-on-loopback';
/** Several times as often as Prometheus does. */
const scrapedEveryMs = 1_000;

/** Creates a key with the scopes that the benchmark needs. */
const keyOf = async (url: string): Promise<string> => {
  const answer = await fetch(`${url}/keys`, {
    method: 'POST',
    headers: { authorization: `Bearer ${adminKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      name: 'The benchmark',
      scopes: ['orders:write', 'orders:read', 'products:write', 'stock:write', 'stock:read'],
    }),
  });
  if (answer.status !== 201) throw new Error(`no key was made: ${answer.status} ${await answer.text()}`);
  return ((await answer.json()) as { key: string }).key;
};

/** A system that authenticates and rate-limits its callers, and exports metrics and traces. */
const startGuarded = async (
  bench: Bench,
  catalogue: readonly CatalogueEntry[],
  name: string,
  environment: Record<string, string>,
): Promise<System> => {
  let headers: Record<string, string> = {};
  const shelfAt = async (url: string): Promise<Shelf> => {
    headers = { authorization: `Bearer ${await keyOf(url)}` };
    return Shelf.fill(url, catalogue, headers);
  };
  const guards = { ADMIN_KEY: adminKey, RATE_LIMIT: '1000000/second', ...environment };
  const system = await startMonolith(bench, name, await bench.server.freshDatabase(), shelfAt, guards);
  return { ...system, headers };
};

/** The cost of exposure: the same orders without authentication, and with a key, rate limits, metrics and traces. */
export const guardedSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say } = bench;
  const { seconds, seed } = options;
  say('guarded: starting');
  const workload = spreadWorkload(new SeededRandom(seed));
  // It runs on the same cores, so its work counts too.
  const collector = await startEcho(bench, '');
  const traced = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.urls[0]! };
  const oneInTen = { OTEL_TRACES_SAMPLER: 'parentbased_traceidratio', OTEL_TRACES_SAMPLER_ARG: '0.1' };
  const off = await startOurs(bench, workload.catalogue, guardedNames.off, { OTEL_SDK_DISABLED: 'true' });
  const guarded = [
    await startGuarded(bench, workload.catalogue, guardedNames.sampled, { ...traced, ...oneInTen }),
    await startGuarded(bench, workload.catalogue, guardedNames.traced, traced),
  ];
  const systems = [off, ...guarded];
  for (const system of systems) {
    await prepareOrders(bench, workload, system);
    await warmUp(bench, system, workload);
  }
  const scraping = setInterval(() => {
    for (const { urls } of guarded)
      fetch(`${urls[0]}/metrics`)
        .then((answer) => answer.text())
        .catch((error: unknown) => report.faults.push(`metrics: ${String(error)}`));
  }, scrapedEveryMs);
  const turns = options.callers.flatMap((callers) =>
    systems.map((system) => ({
      name: `${system.name}, callers: ${callers}`,
      take: async (round: number) => {
        const placing = { callers, seconds, seed: seed + round, as: guardedPlacing };
        report.runs.push(await measurePlacing(bench, system, workload, placing));
      },
    })),
  );
  await takeTurns(turns, options.rounds, say);
  clearInterval(scraping);
  for (const system of [...systems, collector]) await endSystem(bench, system);
};
