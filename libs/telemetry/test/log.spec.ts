import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { annotateWork, requestIdOf, withWork } from '#telemetry';
import { ServiceLog } from '../src/log.js';

const logOf = (format: 'json' | 'text', level?: 'info' | 'debug') => {
  const lines: string[] = [];
  const log = new ServiceLog({ format, ...(level && { level }), write: (line) => void lines.push(line) });
  return { log, lines, last: () => JSON.parse(lines.at(-1)!) as Record<string, unknown> };
};

const work = {
  requestId: 'r-1',
  traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
  tenant: 'acme',
};

describe('the log', () => {
  it('adds the service, request, tenant, order and trace to each line if they are known', () => {
    const { log, last } = logOf('json');
    log.service = 'order';
    log.log('hello', 'Greeter');
    expect(last()).toEqual({
      ...{ level: 'info', time: expect.any(String), service: 'order', context: 'Greeter', msg: 'hello' },
    });
    withWork({ ...work }, () => {
      annotateWork({ orderId: 'o-1' });
      log.warn('careful', { attempt: 2 }, 'Greeter');
    });
    expect(last()).toMatchObject({
      ...{ level: 'warn', request_id: 'r-1', tenant: 'acme', order_id: 'o-1', attempt: 2, msg: 'careful' },
      ...{ trace_id: '4bf92f3577b34da6a3ce929d0e0e4736', span_id: '00f067aa0ba902b7' },
    });
  });

  it('works as the logger of Nest, with stacks and errors as fields', () => {
    const { log, last } = logOf('json');
    Logger.overrideLogger(log);
    try {
      const error = new TypeError('no such thing');
      new Logger('Shop').error('it failed', error.stack);
      expect(last()).toMatchObject({ level: 'error', context: 'Shop', msg: 'it failed', stack: error.stack });
      new Logger('Shop').error(error);
      expect(last()).toMatchObject({ context: 'Shop', msg: 'no such thing', stack: error.stack });
      new Logger('Shop').log('%s %d {"a": 1}');
      expect(last()).toMatchObject({ msg: '%s %d {"a": 1}' });
    } finally {
      Logger.overrideLogger(false);
    }
  });

  it('accepts anything that can be thrown', () => {
    const { log, last } = logOf('json');
    const circle: Record<string, unknown> = { code: 'round' };
    circle['self'] = circle;
    for (const [thrown, told] of [
      [circle, 'round'],
      [{ big: 1n }, '1n'],
      [undefined, 'undefined'],
      [Object.assign(new Error(), { message: { code: 'odd' } }), 'object'],
    ] as const) {
      log.error(thrown, 'Shop');
      expect(last()).toMatchObject({ level: 'error', msg: expect.stringContaining(told) });
    }
  });

  const forged = 'x\n{"level":"info","msg":"forged"}\r\n12:00:00.000 INFO  forged\u001b[2J\u2028\u202e';

  it.each(['json', 'text'] as const)('cannot be made to start a forged line, in the format %s', (format) => {
    const { log, lines } = logOf(format);
    withWork({ ...work, requestId: forged, orderId: forged }, () =>
      log.error(forged, `Error: ${forged}\n    at x`, forged),
    );
    const printed = lines
      .join('')
      .trimEnd()
      .split(/[\n\r\u2028]/);
    const begun = printed.filter((it) => !it.startsWith('    '));
    expect(begun).toHaveLength(1);
    for (const character of '\u001b\u2028\u202e') expect(lines.join('')).not.toContain(character);
  });

  it('masks secrets wherever they appear', () => {
    const { log, lines } = logOf('json');
    const secrets = [
      'hunter2',
      'sk_live_abcdefgh1234',
      'whsec_c2VjcmV0c2VjcmV0',
      'eyJhbGciOi.eyJzdWIiOi.c2lnbmF0',
      'abcdef123456',
      'c0ffee'.repeat(10),
    ];
    log.log(`postgres://cleave:${secrets[0]}@db:5432/x and redis://:${secrets[0]}@r:1`);
    log.warn(`the key ${secrets[1]} and ${secrets[2]}`);
    log.error('failed', `Error: ${secrets[3]}\n    at x`);
    log.log(`authorization: Bearer ${secrets[4]}, {"password":"${secrets[0]}"}`);
    log.error(new Error(`token=${secrets[4]}`));
    log.log(`redis://one:first@r:1,two:${secrets[0]}@r:2 and eyJ-eyJabcdefg-${secrets[3]}`);
    const tokens = [
      'ENCKEYxx.IVIVIVIV.CIPHERTEXT.TAGTAG',
      'c2lnbmF0dXJl~WyJzYWx0IiwibmFtZSIsIkpvIl0~',
      'abc+def/SECRETSIG=',
    ];
    log.log(`authorization: Bearer eyJhbGciOi.${tokens[0]}`);
    log.log(
      `it sent eyJhbGciOi.${tokens[0]}, eyJhbGciOi.eyJzdWIiOi.${tokens[1]} and eyJhbGciOi.eyJzdWIiOi.${tokens[2]}`,
    );
    log.log(`Bearer eyJhbGciOi.eyJzdWIiOi.${tokens[1]} and, by a key that is shared, eyJhbGciOi..${tokens[0]}`);
    log.log(`token=eyJhbGciOi.eyJzdWIiOi.${tokens[2]}`);
    for (const part of [
      'ENCKEYxx',
      'IVIVIVIV',
      'CIPHERTEXT',
      'TAGTAG',
      'c2lnbm',
      'WyJzYW',
      'abc+',
      '+def',
      'SECRETSIG',
    ])
      expect(lines.join('')).not.toContain(part);
    const keyId = '0123456789abcdef'.repeat(2);
    log.log(`it was refused: ck_${keyId}_${secrets[5]}`);
    // As they appear in URLs.
    log.log(`GET /keys/ck%5F${keyId}%5F${secrets[5]} and /x?then=%2fkeys%2Fck_${keyId}_${secrets[5]}`);
    log.log(`GET /x?next=%2Fkeys%2Fck%255f${keyId}%255F${secrets[5]}`);
    log.log(`GET /x?next=%252Fsk_live_abcdefgh1234`);
    log.log(`GET /x/sk%5Flive%5Fabcdefgh1234?y=%20${secrets[1]}&z=%3D${secrets[2]}`);
    expect(lines.join('')).not.toContain('abcdefgh1234');
    for (const secret of secrets) expect(lines.join('')).not.toContain(secret);
    for (const told of ['@db:5432/x', keyId]) expect(lines.join('')).toContain(told);
  });

  it('changes its level at once, permanently or for a time', async () => {
    const { log, lines } = logOf('json');
    log.debug('not yet');
    log.setLevel('debug', 30);
    log.debug('now');
    await setTimeout(60);
    log.debug('not any more');
    expect(lines.map((it) => (JSON.parse(it) as { msg: string }).msg)).toEqual(['now']);
    log.setLevel('fatal');
    log.error('quiet');
    expect(lines).toHaveLength(1);
  });
});

describe('the id of a request', () => {
  it('is the given one if valid, or a new unique one', () => {
    expect(requestIdOf('9f1c-A.b:c/d+e=')).toBe('9f1c-A.b:c/d+e=');
    const made = [undefined, '', 'a b', 'a\nb', 'a@b.c', 'x'.repeat(129), ['a']].map(requestIdOf);
    expect(new Set(made).size).toBe(made.length);
    for (const id of made) expect(id).toMatch(/^[a-z\d-]{8,64}$/);
  });
});
