import { expect, it } from '@jest/globals';
import { Targets, type Instance } from '#balancing';
import { eventually } from '#testing';

class Silent implements Instance {
  constructor(readonly address: string) {}

  async probe(): Promise<void> {}

  close(): void {}
}

it('a name that nobody answers for holds up none of the others, at the start or later', async () => {
  let addresses = ['127.0.0.1'];
  const targets = new Targets({
    name: 'order',
    at: [
      { host: 'answered.test', port: 1 },
      { host: 'hanging.test', port: 1 },
    ],
    instanceAt: (_place, address) => new Silent(address),
    lookup: (host) => (host === 'answered.test' ? Promise.resolve(addresses) : new Promise(() => {})),
    lookupMs: 20,
  });
  const known = () => targets.instances.map(({ address }) => address);
  await targets.starting();
  expect(known()).toEqual(['127.0.0.1']);
  addresses = ['127.0.0.2'];
  await eventually(async () => expect(known()).toEqual(['127.0.0.2']));
  targets.close();
});

it('all there are at present are known, however long ago the names were looked up', async () => {
  let addresses = ['127.0.0.1'];
  const targets = new Targets({
    name: 'order',
    at: [
      { host: 'order.test', port: 1 },
      { host: '127.0.0.9', port: 2 },
    ],
    instanceAt: (_place, address) => new Silent(address),
    lookup: () => Promise.resolve(addresses),
    lookupMs: 60_000,
  });
  const current = async () => [...(await targets.current()).keys()].toSorted();
  expect(await current()).toEqual(['127.0.0.1:1', '127.0.0.9:2']);
  addresses = ['127.0.0.2', '127.0.0.3'];
  expect(await current()).toEqual(['127.0.0.2:1', '127.0.0.3:1', '127.0.0.9:2']);
  targets.close();
});
