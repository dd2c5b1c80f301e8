import { describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import fc from 'fast-check';
import { z } from 'zod';
import { ConfigurationError, env, readEnvironment, type StandIns } from '#config';

const faultsIn = (
  shape: Record<string, z.ZodType>,
  source: Record<string, string>,
  standIns: StandIns = {},
): string => {
  try {
    readEnvironment(shape, source, standIns);
    return 'none';
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigurationError);
    return (error as ConfigurationError).message;
  }
};

describe('readEnvironment', () => {
  const shape = {
    PORT: env.port(3000),
    HOST: env.host('127.0.0.1'),
    DATA_DIR: env.directory('.data'),
    DATABASE_URL: env.postgresUrl.optional(),
    CACHE_REDIS_URL: env.redisUrl.optional(),
    ORDER_URL: env.httpUrl.optional(),
    DEMO_PRODUCTS: env.flag,
  };

  it('returns typed values and defaults, and no other variables', () => {
    const read = readEnvironment(shape, { PORT: '0', HOST: '', DATABASE_URL: 'postgresql://db/x', HOME: '/root' });
    const port: number = read.PORT;
    expect(read).toEqual({
      PORT: port,
      HOST: '127.0.0.1',
      DATA_DIR: '.data',
      DATABASE_URL: 'postgresql://db/x',
      DEMO_PRODUCTS: false,
    });
    expect(readEnvironment(shape, { PORT: '65535', HOST: '::1', DEMO_PRODUCTS: 'true' })).toMatchObject({
      PORT: 65_535,
      HOST: '::1',
      DEMO_PRODUCTS: true,
    });
  });

  it('lists every fault on a line of its own, with the given value and the expected form', () => {
    expect(
      faultsIn(
        { ...shape, ORDER_DATABASE_URL: env.postgresUrl },
        {
          PORT: '65536',
          HOST: 'a b',
          CACHE_REDIS_URL: 'http://localhost',
          ORDER_URL: 'localhost:3000',
          DEMO_PRODUCTS: 'yes',
        },
      ).split('\n'),
    ).toEqual([
      'Settings are missing or wrong. Correct these environment variables and start again:',
      '  PORT: "65536" is not right; must be a port from 0 to 65535',
      '  HOST: "a b" is not right; must be a host name or an IP address such as 127.0.0.1',
      '  CACHE_REDIS_URL: "http://localhost" is not right; must be an address such as redis://host:6379/0',
      '  ORDER_URL: "localhost:3000" is not right; must be an address such as http://host:3000',
      '  DEMO_PRODUCTS: "yes" is not right; must be true or false',
      '  ORDER_DATABASE_URL: is not set; must be an address such as postgres://user:password@host:5432/database',
    ]);
  });

  it.each(['-1', '1.5', '99999', '0x10', '1e3', ' 80', 'http'])('refuses the port %s', (PORT) => {
    expect(faultsIn({ PORT: env.port(3000) }, { PORT })).toContain('must be a port');
  });

  it.each(['postgres://', 'postgres:db', 'mysql://db/x', 'db', 'postgres:///x'])(
    'refuses the database URL %s',
    (url) => {
      expect(faultsIn({ DATABASE_URL: env.postgresUrl }, { DATABASE_URL: url })).toContain(
        'must be an address such as',
      );
    },
  );

  it.each([
    'mysql://cleave:hunter2@db/orders',
    'mysql://cleave:hunter2',
    'mysql://cleave:hun/hunter2@db/orders',
    'mysql://cleave:hun@hunter2@db/orders',
    'mysql://db/orders?password=hunter2',
    'mysql://hunter2@[bad/orders',
    'cleave:hunter2@db',
    'mysql://a:1,cleave:hunter2@db:2',
  ])('never prints the password in %s', (url) => {
    const faults = faultsIn({ DATABASE_URL: env.postgresUrl }, { DATABASE_URL: url });
    expect(faults).toContain('DATABASE_URL');
    expect(faults).not.toContain('hunter2');
  });

  it('never prints the value of a secret, even if the message of the schema quotes it', () => {
    const quoting = z.string().refine(() => false, { error: ({ input }) => `${String(input)} will not do` });
    expect(faultsIn({ CURSOR_SECRET: quoting }, { CURSOR_SECRET: 'hunter2' })).not.toContain('hunter2');
    expect(faultsIn({ X_AT: quoting }, { X_AT: 'redis://u:hunter2@h:6379' })).not.toContain('hunter2');
  });

  it('never prints a password in a part of an address list that the schema quotes', () => {
    const quoting = z
      .string()
      .refine(() => false, { error: ({ input }) => `"${String(input).split(',')[1]}" is none` });
    const faults = faultsIn({ X_AT: quoting }, { X_AT: 'tcp://h:1,u:hunter2@h:2' });
    expect(faults).toContain('X_AT');
    expect(faults).not.toContain('hunter2');
  });

  it('does not mask a message that happens to contain the value', () => {
    const shape = { CACHE_MAX_BYTES: z.coerce.number().min(1_048_576, 'must be at least 1048576') };
    expect(faultsIn(shape, { CACHE_MAX_BYTES: '1' })).toContain(
      '  CACHE_MAX_BYTES: "1" is not right; must be at least 1048576',
    );
  });

  it('never prints a password, whatever its characters', () => {
    const character = fc.constantFrom(...'abc019:/@?#[]%&=, '.split(''));
    const password = fc.array(character, { minLength: 1, maxLength: 8 }).map((it) => `hun${it.join('')}ter`);
    fc.assert(
      fc.property(password, fc.constantFrom('db', 'db:5432', 'a:1,b:2', ''), (secret, host) => {
        const url = `mysql://cleave:${secret}@${host}/orders`;
        const faults = faultsIn({ DATABASE_URL: env.postgresUrl }, { DATABASE_URL: url });
        expect(faults).not.toContain(secret);
      }),
    );
  });

  it('prints addresses without a secret unchanged', () => {
    const never = z.string().refine(() => false, 'no');
    for (const value of ['tcp://a:1,b:2', 'tcp://[::1]:3001', 'redis://localhost:6379']) {
      expect(faultsIn({ X_AT: never }, { X_AT: value })).toContain(JSON.stringify(value));
    }
  });
});

describe('a variable that is not set', () => {
  const shape = {
    ORDER_DATABASE_URL: env.postgresUrl,
    INVENTORY_DATABASE_URL: env.postgresUrl,
    INVENTORY_AT: z.string(),
  };
  const standIns = {
    fallbacks: { ORDER_DATABASE_URL: 'DATABASE_URL', INVENTORY_DATABASE_URL: 'DATABASE_URL' },
    defaults: { INVENTORY_AT: 'in-process:' },
  };

  it('takes the value of its fallback, else its default', () => {
    const source = { ORDER_DATABASE_URL: 'postgres://own/x', DATABASE_URL: 'postgres://all/x', INVENTORY_AT: '' };
    expect(readEnvironment(shape, source, standIns)).toEqual({
      ORDER_DATABASE_URL: 'postgres://own/x',
      INVENTORY_DATABASE_URL: 'postgres://all/x',
      INVENTORY_AT: 'in-process:',
    });
  });

  it('is reported with its fallback; a wrong fallback is reported once', () => {
    expect(faultsIn(shape, { DATABASE_URL: 'mysql://db/x' }, standIns).split('\n').slice(1)).toEqual([
      '  DATABASE_URL: "mysql://db/x" is not right; must be an address such as postgres://user:password@host:5432/database',
    ]);
    expect(faultsIn(shape, {}, standIns)).toContain('ORDER_DATABASE_URL: is not set (or DATABASE_URL); must be');
  });

  it('is also reported as misspelt if it has a fallback or a default', () => {
    const source = { DATABASE_URL: 'postgres://all/x', INVENTRY_AT: 'x', ORDER_DATABSE_URL: 'postgres://own/x' };
    const faults = faultsIn(shape, source, standIns);
    expect(faults).toContain('INVENTRY_AT: is not known; did you mean INVENTORY_AT?');
    expect(faults).toContain('ORDER_DATABSE_URL: is not known; did you mean ORDER_DATABASE_URL?');
    expect(faultsIn(shape, { DATABSE_URL: 'postgres://all/x' }, standIns)).toContain('did you mean DATABASE_URL?');
  });
});

describe('a misspelt variable', () => {
  const shape = { ORDER_AT: z.string().optional(), INVENTORY_LISTEN: z.string().optional(), PORT: env.port(1) };

  it('is refused with a suggestion', () => {
    expect(faultsIn(shape, { INVENTORY_LISTNE: 'x' })).toContain(
      'INVENTORY_LISTNE: is not known; did you mean INVENTORY_LISTEN?',
    );
    expect(faultsIn(shape, { INVENTORY_LISTENS: 'x', ORDER_ATT: 'y' })).toMatch(/LISTENS.*\n.*ORDER_ATT/);
  });

  it('is ignored if it may well be something else', () => {
    const foreign = [
      ...['PORTS', 'HOSTS', 'ORDER_DB', 'ORDER_ID', 'ORDER_PORT', 'ORDER_SERVICE_HOST', 'ORDER_PORT_3000_TCP'],
      ...['INVENTORY_PORT', 'INVENTORY_URL', 'CACHE_AT', 'MY_ORDER_AT', 'ORDERAT'],
    ];
    for (const variable of foreign) expect(faultsIn(shape, { [variable]: 'x' })).toBe('none');
    expect(faultsIn(shape, { INVENTORY_LISTEN: 'x', INVENTORY_LISTENS: 'y' })).toBe('none');
    expect(faultsIn(shape, { INVENTORY_LISTENS: '' })).toBe('none');
  });

  it('is not reported if Kubernetes or Docker sets it for a service of that name', () => {
    const ports = { WEBHOOKS_PORTS: env.ports([443]) };
    expect(faultsIn(ports, { WEBHOOKS_PORT: 'tcp://10.0.0.7:3006' })).toBe('none');
    expect(faultsIn(ports, { WEBHOOKS_PORT: '8443' })).toContain('did you mean WEBHOOKS_PORTS?');
  });
});

describe('a variable with a name similar to one that is read', () => {
  const optional = z.string().optional();
  const shape = {
    ...{ ORDER_HOLD_MS: optional, CACHE_REDIS_URL: optional, ADMIN_KEY: optional, PORT: env.port(1) },
    OTEL_EXPORTER_OTLP_ENDPOINT: optional,
  };
  const standIns = { fallbacks: { CACHE_REDIS_URL: 'DATABASE_URL' } };

  /** The level and the arguments of everything that is logged. */
  const said = (source: Record<string, string>): unknown[][] => {
    const lines: unknown[][] = [];
    const at =
      (level: string) =>
      (...parts: unknown[]): void =>
        void lines.push([level, ...parts]);
    Logger.overrideLogger({ log: at('log'), error: at('error'), warn: at('warn') });
    try {
      readEnvironment(shape, source, standIns);
    } finally {
      Logger.overrideLogger(false);
    }
    return lines;
  };

  it.each([
    ['ORDER_HOLD', 'ORDER_HOLD_MS'],
    ['ORDER_HOLD_SECONDS', 'ORDER_HOLD_MS'],
    ['CACHE_REDIS_HOST', 'CACHE_REDIS_URL'],
    ['ADMIN_KEY_FILE', 'ADMIN_KEY'],
    ['ADMINKEY', 'ADMIN_KEY'],
    ['database_url', 'DATABASE_URL'],
  ])('%s is logged as a warning, with a code and without its value, unless the right one is set', (variable, meant) => {
    const message = `${variable} is set, but nothing here reads it; did you mean ${meant}?`;
    expect(said({ [variable]: 'secret' })).toEqual([['warn', message, { code: 'variable-not-read' }, 'Configuration']]);
    expect(said({ [variable]: 'secret', [meant]: 'x' })).toEqual([]);
  });

  it('is not logged if it belongs to other software', () => {
    const ofOthers = {
      ...{ CACHE_REDIS_PORT: 'tcp://10.0.0.7:6379', CACHE_REDIS_SERVICE_HOST: '10.0.0.7', ORDER_PORT: '1' },
      ...{
        CACHE_REDIS_PORT_6379_TCP: 'tcp://10.0.0.7:6379',
        CACHE_REDIS_SERVICE_PORT: '6379',
        ORDER_SERVICE_HOST: 'x',
      },
      ...{ ADMIN_MAIL: 'x', ORDER_DB: 'x', REDIS_URL: 'x', PGHOST: 'x', HOSTNAME: 'x', npm_config_cache: 'x' },
      OTEL_EXPORTER_OTLP_HEADERS: 'x',
    };
    expect(said(ofOthers)).toEqual([]);
    expect(said(process.env as Record<string, string>)).toEqual([]);
  });
});
