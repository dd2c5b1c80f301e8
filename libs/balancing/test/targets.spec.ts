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
