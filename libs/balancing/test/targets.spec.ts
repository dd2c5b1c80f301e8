import { setImmediate, setTimeout } from 'node:timers/promises';
import { describe, expect, it } from '@jest/globals';
import { Targets, addressesOf, type Instance } from '#balancing';
import { eventually } from '#testing';

class Silent implements Instance {
  constructor(readonly address: string) {}

  async probe(): Promise<void> {}

  close(): void {}
}

it('a host name whose lookup hangs does not delay the others, at the start or later', async () => {
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

describe('a host name with addresses of both families', () => {
  const failure = (code: string) => Object.assign(new Error(`getaddrinfo ${code} order.test`), { code });

  /** The answers of glibc 2.36 for one address of each family, and the given failure of the DNS server for IPv4. */
  const lookUp = (host: string, failureOf4 = '') =>
    addressesOf(host, async (_host, { family }) => {
      if (family === 4 && failureOf4 !== '') throw failure(failureOf4);
      const four = { address: '127.0.0.1', family: 4 };
      const six = { address: '::1', family: 6 };
      if (family === 4) return [four];
      return family === 6 || failureOf4 !== '' ? [six] : [six, four];
    });

  it('stands for its IPv4 addresses, or for the others if it has none', async () => {
    expect(await lookUp('order.test')).toEqual(['127.0.0.1']);
    expect(await lookUp('order.test', 'ENOTFOUND')).toEqual(['::1']);
  });

  // Of a server that refuses IPv4 alone, glibc says the first, and musl the second.
  it.each(['EAI_AGAIN', 'EAI_FAIL'])(
    'keeps its IPv4 addresses while the DNS server fails for them (%s)',
    async (code) => {
      let failureOf4 = '';
      const targets = new Targets({
        name: 'order',
        at: [{ host: 'order.test', port: 1 }],
        instanceAt: (_place, address) => new Silent(address),
        lookup: (host) => lookUp(host, failureOf4),
      });
      const current = async () => (await targets.current()).map(([address]) => address);
      expect(await current()).toEqual(['127.0.0.1:1']);
      failureOf4 = code;
      expect(await current()).toEqual(['127.0.0.1:1']);
      targets.close();
    },
  );
});

it('the current addresses are looked up anew, however recent the last lookup is', async () => {
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
  const current = async () => (await targets.current()).map(([address]) => address).toSorted();
  expect(await current()).toEqual(['127.0.0.1:1', '127.0.0.9:2']);
  addresses = ['127.0.0.2', '127.0.0.3'];
  expect(await current()).toEqual(['127.0.0.2:1', '127.0.0.3:1', '127.0.0.9:2']);
  targets.close();
});

const start = (addresses: string[], probe: () => Promise<void>) =>
  new Targets({
    name: 'order',
    at: addresses.map((host) => ({ host, port: 1 })),
    policy: 'round-robin',
    instanceAt: (_place, address) => Object.assign(new Silent(address), { probe }),
  });

it('an instance is ejected when its callers give up after a second, but not when they do so at once', async () => {
  const targets = start(['127.0.0.1', '127.0.0.2'], () => new Promise(() => {}));
  const calls = Array.from({ length: 12 }, () => targets.attempts(false).next());
  const ofOne = calls.filter(({ instance }) => instance.address === '127.0.0.1');
  for (const call of ofOne.splice(0, 3)) call.end('given-up');
  expect(targets.states).toEqual({ ready: 2, ejected: 0 });
  await setTimeout(1_050);
  for (const call of ofOne) call.end('given-up');
  expect(targets.states).toEqual({ ready: 1, ejected: 1 });
  targets.close();
});

describe('an instance at its maximum of connections', () => {
  it('is ejected until a probe succeeds, even if it answers on older connections', async () => {
    const isRoom = Promise.withResolvers<void>();
    const targets = start(['127.0.0.1', '127.0.0.2'], () => isRoom.promise);
    const attempts = Array.from({ length: 6 }, () => targets.attempts(false).next());
    const [first, second, older] = attempts.filter(({ instance }) => instance.address === '127.0.0.1');
    for (const refused of [first!, second!]) {
      refused.answerBegins('full');
      expect(targets.states).toEqual({ ready: 1, ejected: 1 });
    }
    older!.answerBegins('answered');
    expect(targets.states).toEqual({ ready: 1, ejected: 1 });
    expect(targets.counts.ejections).toBe(1);
    isRoom.resolve();
    await eventually(async () => expect(targets.states).toEqual({ ready: 2, ejected: 0 }));
    targets.close();
  });

  it('is readmitted by an answer if it was ejected for another reason since its readmission', async () => {
    const targets = start(['127.0.0.1', '127.0.0.2'], () => Promise.resolve());
    const attempts = Array.from({ length: 6 }, () => targets.attempts(false).next());
    const [refused, lost, older] = attempts.filter(({ instance }) => instance.address === '127.0.0.1');
    refused!.end('full');
    await eventually(async () => expect(targets.states).toEqual({ ready: 2, ejected: 0 }));
    lost!.end('lost');
    expect(targets.states).toEqual({ ready: 1, ejected: 1 });
    older!.end('answered');
    expect(targets.states).toEqual({ ready: 2, ejected: 0 });
    targets.close();
  });

  it('is not ejected for that if it is alone, nor is an ejection for another reason changed by that', () => {
    const targets = start(['127.0.0.1'], () => Promise.reject(new Error('a lone one is not probed')));
    targets.attempts(false).next().end('full');
    expect(targets.states).toEqual({ ready: 1, ejected: 0 });
    const [answered, lost, refused] = Array.from({ length: 3 }, () => targets.attempts(false).next());
    lost!.end('lost');
    refused!.end('full');
    expect(targets.states).toEqual({ ready: 0, ejected: 1 });
    answered!.end('answered');
    expect(targets.states).toEqual({ ready: 1, ejected: 0 });
    targets.close();
  });
});

describe('an instance that fails every call', () => {
  const one = '127.0.0.1';
  const callsTo = (targets: ReturnType<typeof start>, count: number) => {
    const attempts = Array.from({ length: 2 * count }, () => targets.attempts(false).next());
    return attempts.filter(({ instance }) => instance.address === one);
  };

  it('is ejected after five failures until a probe succeeds, and then again after one failure', async () => {
    const isBack = Promise.withResolvers<void>();
    const targets = start([one, '127.0.0.2'], () => isBack.promise);
    const [later, again, ...calls] = callsTo(targets, 7);
    for (const call of calls) {
      expect(targets.states).toEqual({ ready: 2, ejected: 0 });
      call.end('failing');
    }
    expect(targets.states).toEqual({ ready: 1, ejected: 1 });
    later!.end('failing');
    expect(targets.states).toEqual({ ready: 1, ejected: 1 });
    isBack.resolve();
    await eventually(async () => expect(targets.states).toEqual({ ready: 2, ejected: 0 }));
    again!.end('failing');
    expect([targets.states, targets.counts.ejections]).toEqual([{ ready: 1, ejected: 1 }, 2]);
    targets.close();
  });

  it('is readmitted at once by an answer', () => {
    const targets = start([one, '127.0.0.2'], () => new Promise(() => {}));
    const [answered, ...calls] = callsTo(targets, 6);
    for (const call of calls) call.end('failing');
    expect(targets.states).toEqual({ ready: 1, ejected: 1 });
    answered!.end('answered');
    expect(targets.states).toEqual({ ready: 2, ejected: 0 });
    targets.close();
  });

  it('is not ejected if it answers in between, is only busy, or is alone', () => {
    const targets = start([one, '127.0.0.2'], () => new Promise(() => {}));
    const calls = callsTo(targets, 24);
    const outcomes = ['failing', 'failing', 'answered', 'failing', 'failing'] as const;
    for (const outcome of [...outcomes, ...outcomes]) calls.shift()!.end(outcome);
    for (const call of calls) call.end('busy');
    expect(targets.counts.ejections).toBe(0);
    targets.close();
    const alone = start([one], () => new Promise(() => {}));
    for (let count = 0; count < 20; count += 1) alone.attempts(false).next().end('failing');
    expect(alone.counts.ejections).toBe(0);
    alone.close();
  });

  it('is called if the only other instance is gone', () => {
    const targets = start([one, '127.0.0.2'], () => Promise.reject(new Error('gone')));
    const attempts = Array.from({ length: 2 }, () => targets.attempts(false).next());
    attempts.find(({ instance }) => instance.address !== one)!.end('not-sent');
    for (let count = 0; count < 20; count += 1) {
      const attempt = targets.attempts(false).next();
      expect(attempt.instance.address).toBe(one);
      attempt.end('failing');
    }
    expect(targets.states).toEqual({ ready: 1, ejected: 1 });
    targets.close();
  });
});

it('no call fails when two of four instances stop before anybody has probed the other two, which are back', async () => {
  const hosts = ['127.0.0.1', '127.0.0.2', '127.0.0.3', '127.0.0.4'];
  const leaving = new Map<string, () => void>();
  const up = new Set(hosts);
  let refusedProbes = 0;
  const targets = new Targets({
    name: 'order',
    at: hosts.map((host) => ({ host, port: 1 })),
    instanceAt: (_place, address, leave) => {
      leaving.set(address, leave);
      const probe = async (): Promise<void> => {
        if (up.has(address)) return;
        refusedProbes += 1;
        throw new Error('it is not there');
      };
      return Object.assign(new Silent(address), { probe });
    },
  });
  const isAnswered = (): boolean => {
    const attempts = targets.attempts(false);
    for (;;) {
      const attempt = attempts.next();
      const outcome = up.has(attempt.instance.address) ? 'answered' : 'not-sent';
      attempt.end(outcome);
      if (outcome === 'answered') return true;
      if (!attempts.another(outcome)) return false;
    }
  };
  const stop = (stopped: string[]): void => {
    for (const host of stopped) leaving.get(host)!();
    for (const host of stopped) up.delete(host);
  };
  stop(hosts.slice(0, 2));
  // Until the pauses between the probes have grown to a second or so.
  await eventually(async () => expect(refusedProbes).toBeGreaterThan(6));
  for (const host of hosts.slice(0, 2)) up.add(host);
  stop(hosts.slice(2));
  let failed = 0;
  for (let count = 0; count < 500; count += 1) {
    if (!isAnswered()) failed += 1;
    await setImmediate();
  }
  expect(failed).toBe(0);
  expect(targets.states).toEqual({ ready: 2, ejected: 2 });
  targets.close();
});

it('a call is refused if all ready instances are full, rather than sent to an ejected one', () => {
  const targets = new Targets({
    name: 'order',
    at: ['127.0.0.1', '127.0.0.2'].map((host) => ({ host, port: 1 })),
    instanceAt: (_place, address) => Object.assign(new Silent(address), { probe: () => new Promise<void>(() => {}) }),
    maxInFlight: 2,
  });
  const gone = targets.attempts(false).next();
  gone.end('lost');
  for (let count = 0; count < 2; count += 1)
    expect(targets.attempts(false).next().instance.address).not.toBe(gone.instance.address);
  expect(() => targets.attempts(false).next()).toThrow(expect.objectContaining({ code: 'unavailable' }));
  expect(targets.states).toEqual({ ready: 1, ejected: 1 });
  targets.close();
});

it('an ejected instance that is back is noticed as soon as all others are full', async () => {
  let isBack = false;
  let probes = 0;
  let leave: () => void;
  const targets = new Targets({
    name: 'order',
    at: ['127.0.0.1', '127.0.0.2'].map((host) => ({ host, port: 1 })),
    instanceAt: (_place, address, leaving) => {
      leave = leaving;
      const probe = async (): Promise<void> => {
        probes += 1;
        if (!isBack) throw new Error('it is not there');
      };
      return Object.assign(new Silent(address), { probe });
    },
    maxInFlight: 1,
  });
  leave!();
  // Until the pauses between the probes have grown.
  await eventually(async () => expect(probes).toBeGreaterThan(2));
  isBack = true;
  expect(targets.attempts(false).next().instance.address).toBe('127.0.0.1');
  expect(() => targets.attempts(false).next()).toThrow(expect.objectContaining({ code: 'unavailable' }));
  for (let turns = 0; turns < 5; turns += 1) await setImmediate();
  expect(targets.attempts(false).next().instance.address).toBe('127.0.0.2');
  targets.close();
});

it.each(['not-sent', 'full'] as const)(
  'twenty instances that are all gone or full (%s) get few more than two attempts for each call',
  (outcome) => {
    const hosts = Array.from({ length: 20 }, (_, at) => `127.0.0.${at + 1}`);
    const targets = start(hosts, () => Promise.reject(new Error('no')));
    const startedAt = performance.now();
    const calls = 1_000;
    for (let count = 0; count < calls; count += 1) {
      const attempts = targets.attempts(false);
      do attempts.next().end(outcome);
      while (attempts.another(outcome));
    }
    const seconds = (performance.now() - startedAt) / 1_000;
    expect(targets.states).toEqual({ ready: 0, ejected: 20 });
    expect(targets.counts.retries).toBeLessThanOrEqual(calls + 20 + calls * 0.1 + 30 + 3 * seconds + 1);
    expect(targets.counts.refusedByBudget).toBeGreaterThan(0);
    targets.close();
  },
);

it('a call that was not sent finds the one ready instance among twenty, even if the retry budget is spent', () => {
  const hosts = Array.from({ length: 20 }, (_, at) => `127.0.0.${at + 1}`);
  const targets = start(hosts, () => Promise.reject(new Error('no')));
  while (targets.budget.spend());
  const attempts = targets.attempts(false);
  let attempt = attempts.next();
  for (; attempt.instance.address !== hosts[7]; attempt = attempts.next()) {
    attempt.end('not-sent');
    expect(attempts.another('not-sent')).toBe(true);
  }
  attempt.end('answered');
  targets.close();
});

it('a call that was not sent goes to a second instance although that is ejected and the retry budget is spent', () => {
  const targets = start(['127.0.0.1', '127.0.0.2'], () => Promise.reject(new Error('no')));
  for (let count = 0; count < 2; count += 1) targets.attempts(false).next().end('not-sent');
  expect(targets.states).toEqual({ ready: 0, ejected: 2 });
  while (targets.budget.spend());
  const attempts = targets.attempts(false);
  const first = attempts.next();
  first.end('not-sent');
  expect(attempts.another('not-sent')).toBe(true);
  const second = attempts.next();
  expect(second.instance.address).not.toBe(first.instance.address);
  second.end('not-sent');
  expect(attempts.another('not-sent')).toBe(false);
  targets.close();
});
