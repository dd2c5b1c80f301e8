import { expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { Contract } from '#contracts';
import { Messenger, type BalancePolicy } from '#messaging';
import { readMonolithEnvironment } from '../src/environment.js';
import { modules } from '../src/modules.js';

Logger.overrideLogger(false);

/** None of these is the default. */
const configured: Record<string, BalancePolicy> = {
  order: 'random',
  inventory: 'round-robin',
  payment: 'random',
  cache: 'round-robin',
};

/** Which module of this process calls which other one, with which policy. */
const asked = async (environment: Record<string, string>): Promise<string[]> => {
  const settings = readMonolithEnvironment({ DATABASE_URL: 'postgres://nobody/nothing', ...environment });
  const all = modules(settings as never, { order: undefined, webhooks: undefined });
  const clients: string[] = [];
  for (const { module, providers = [] } of all)
    for (const it of providers) {
      if (!('useFactory' in it) || !it.inject?.includes(Messenger)) continue;
      const messenger = {
        clientFor: ({ name }: Contract, _at: unknown, { balance }: { balance?: string } = {}) =>
          clients.push(`${module.name} asks ${name}: ${balance}`),
      };
      // Other dependencies are not used yet, except for one setting.
      const other = { query: () => Promise.resolve([{ value: 'kept' }]), sourceFor: () => undefined };
      await it.useFactory(...it.inject.map((what) => (what === Messenger ? messenger : other)));
    }
  return clients.toSorted();
};

it('each module balances its calls to another one by the X_BALANCE of that one', async () => {
  const variables = Object.entries(configured).map(([name, policy]) => [`${name.toUpperCase()}_BALANCE`, policy]);
  const clients = [
    ...['InventoryModule asks cache', 'OrderModule asks inventory', 'OrderModule asks payment'],
    ...['SalesModule asks inventory', 'SalesModule asks order', 'WebhooksModule asks order'],
  ];
  const how = (client: string): string => configured[client.split(' ').at(-1)!]!;
  expect(await asked(Object.fromEntries(variables))).toEqual(clients.map((it) => `${it}: ${how(it)}`));
  expect(await asked({})).toEqual(clients.map((it) => `${it}: least-loaded`));
});
