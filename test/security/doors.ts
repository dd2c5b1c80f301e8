import { AppProcess } from '../support/app-process.js';
import { servicePorts, startShape } from '../support/shapes.js';

/** Every kind of process that serves REST: the monolith, a service, and a gateway in front of that service. */
export interface Doors {
  urls: Record<DoorName, string>;
  log(): string;
  stop(): Promise<void>;
}

export const doorNames = ['monolith', 'gateway', 'service'] as const;
type DoorName = (typeof doorNames)[number];

/** @param more environment variables of every process */
export const startDoors = async (more: Record<string, string> = {}): Promise<Doors> => {
  const [service, messages, gateway] = await servicePorts(3);
  const nowhere = ['ORDER', 'INVENTORY', 'PAYMENT', 'SALES', 'WEBHOOKS'].map((it) => [
    `${it}_URL`,
    'http://127.0.0.1:1',
  ]);
  const urls = { service: `http://127.0.0.1:${service}`, gateway: `http://127.0.0.1:${gateway}` };
  const processes = [
    new AppProcess('cache', { ...more, PORT: String(service), CACHE_LISTEN: `tcp://127.0.0.1:${messages}` }),
    new AppProcess('gateway', {
      ...more,
      ...{ PORT: String(gateway), CACHE_URL: urls.service },
      ...(Object.fromEntries(nowhere) as Record<string, string>),
    }),
  ];
  for (const it of processes) it.spawn();
  const [monolith] = await Promise.all([
    startShape('monolith', more),
    processes[0]!.untilReady(`${urls.service}/health/ready`),
    processes[1]!.untilReady(`${urls.gateway}/health/live`),
  ]);
  return {
    urls: { ...urls, monolith: monolith.baseUrl },
    log: () => [monolith.log(), ...processes.map((it) => it.log)].join('\n'),
    stop: async () => {
      const told = (await Promise.all(processes.map((it) => it.stop()))).filter((it) => it !== undefined);
      await monolith.stop();
      if (told.length > 0) throw new Error(told.join('\n\n'));
    },
  };
};
