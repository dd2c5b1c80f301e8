import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { createClient } from '@redis/client';
import type { Brokers } from './shapes.js';

/** What is sent to a broker, and what it stores. */
export interface Overheard {
  broker: keyof Brokers;
  /** Everything sent to it since `overhear`. */
  told(): string;
  /** Everything that it stores now. */
  kept(): Promise<string>;
  stop(): Promise<void>;
}

/** Listens to the brokers from now on. */
export const overhear = async ({ redis, nats }: Brokers): Promise<Overheard[]> =>
  Promise.all([...(redis === undefined ? [] : [redisAt(redis)]), ...(nats === undefined ? [] : [natsAt(nats)])]);

const redisAt = async (url: string): Promise<Overheard> => {
  const connected = async () => {
    const client = createClient({ url, socket: { reconnectStrategy: false } });
    // Commands on a lost connection fail by themselves.
    client.on('error', () => undefined);
    return client.connect();
  };
  const [asking, listening] = await Promise.all([connected(), connected()]);
  // Otherwise, dumped values would be compressed.
  await asking.sendCommand(['CONFIG', 'SET', 'rdbcompression', 'no']);
  const said: string[] = [];
  await listening.monitor((command) => void said.push(String(command)));
  return {
    broker: 'redis',
    told: () => said.join('\n'),
    kept: async () => {
      const found: string[] = [];
      for (let database = 0; database < 16; database += 1) {
        await asking.select(database);
        for (const key of await asking.keys('*')) found.push(key, String(await asking.sendCommand(['DUMP', key])));
      }
      return found.join('\n');
    },
    stop: async () => {
      listening.destroy();
      await asking.close();
    },
  };
};

const textOf = (subject: string, headers: Iterable<[string, string[]]> | undefined, body: string): string =>
  [subject, ...[...(headers ?? [])].flat(2), body].join(' ');

const natsAt = async (url: string): Promise<Overheard> => {
  const connection = await connect({ servers: url.replace('nats://', '') });
  const said: string[] = [];
  connection.subscribe('>', {
    callback: (error, message) => {
      if (error) throw error;
      said.push(textOf(message.subject, message.headers, message.string()));
    },
  });
  // The subscription is active once this is answered.
  await connection.flush();
  return {
    broker: 'nats',
    told: () => said.join('\n'),
    kept: async () => {
      const found: string[] = [];
      const { streams } = await jetstreamManager(connection);
      for await (const { config, state } of streams.list())
        for (let seq = state.first_seq; seq <= state.last_seq; seq += 1) {
          const message = await streams.getMessage(config.name, { seq });
          if (message) found.push(textOf(message.subject, message.header, message.string()));
        }
      return found.join('\n');
    },
    stop: () => connection.close(),
  };
};
