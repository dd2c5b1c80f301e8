import { setTimeout as sleep } from 'node:timers/promises';
import { ErrorReply } from '@redis/client';
import type { Connection } from './connection.js';
import type { AboutKey } from './scripts.js';

/** Whether a slot is moved by now is looked at so often. */
const movedPollMs = 10;

type Client = Connection['redis']['client'];

/** What has two keys is refused while their slot is being moved from one master to another. */
const isMoving = (error: unknown): boolean => error instanceof ErrorReply && error.message.startsWith('TRYAGAIN');

/** What cannot be done apart is asked again, as a slot is mostly moved soon. */
export const onceMoved = async <T>(ask: () => Promise<T>, patienceMs: number, hasEnded: () => boolean): Promise<T> => {
  for (const giveUpAt = performance.now() + patienceMs; ;)
    try {
      return await ask();
    } catch (error) {
      if (!isMoving(error) || performance.now() > giveUpAt) throw error;
      await sleep(movedPollMs);
      if (hasEnded()) throw error;
    }
};

export const unlessMoving = async <T, Apart>(asking: Promise<T>, apart: () => Promise<Apart>): Promise<T | Apart> => {
  try {
    return await asking;
  } catch (error) {
    if (isMoving(error)) return apart();
    throw error;
  }
};

export const removeApart = async (
  client: Client,
  [entry, lease]: readonly [string, string],
  hasEnded: () => boolean,
): Promise<void> => {
  const remove = (): Promise<unknown> => client.unlink(entry);
  await changeApart(client, lease, remove, remove, hasEnded);
};

export const putApart = async (
  client: Client,
  [entry, lease, stored, ms]: AboutKey,
  hasEnded: () => boolean,
): Promise<unknown[]> => {
  const lasts = ms === '0' ? {} : { expiration: { type: 'PX' as const, value: Number(ms) } };
  // Others may have gone on from this value by now: it is not put there again, and nothing is there rather than what was.
  const removeOther = async (): Promise<unknown> => (await client.get(entry)) !== stored && client.unlink(entry);
  const write = async (): Promise<unknown> => {
    try {
      return await client.set(entry, stored!, lasts);
    } catch (error) {
      // By a Redis that is full: what lay there is not what is to be read there.
      if (error instanceof ErrorReply && !hasEnded()) await client.unlink(entry);
      throw error;
    }
  };
  await changeApart(client, lease, write, removeOther, hasEnded);
  return [true];
};

/** Of a key whose slot is being moved: its entry and its lease may be on two masters, and are changed one after the other. */
const changeApart = async (
  client: Client,
  lease: string,
  change: () => Promise<unknown>,
  undoFill: () => Promise<unknown>,
  hasEnded: () => boolean,
): Promise<void> => {
  const end = (): Promise<unknown> => client.unlink(lease);
  // Whoever loads is too late before the entry changes; and whoever began to before it did may have filled it until the
  // lease is taken away from him as well.
  for (const step of [end, change, end, undoFill]) {
    // Whoever was told that it has failed may have gone on to another value.
    if (hasEnded()) return;
    await step();
  }
};
