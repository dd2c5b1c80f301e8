import { setTimeout as sleep } from 'node:timers/promises';
import { ErrorReply } from '@redis/client/dist/lib/errors.js';
import type { Connection } from './connection.js';
import type { AboutKey } from './scripts.js';

/** How often an operation is retried while its slot moves. */
const movedPollMs = 10;

type Client = Connection['redis']['client'];

/** Redis refuses a command with two keys while their slot is migrating from one master to another. */
const isMoving = (error: unknown): boolean => error instanceof ErrorReply && error.message.startsWith('TRYAGAIN');

/** Retries an operation that cannot be split; the migration of a slot is usually short. */
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
  const remove = (): Promise<unknown> => client.remove([entry]);
  await changeApart(client, lease, remove, remove, hasEnded);
};

export const putApart = async (
  client: Client,
  [entry, lease, stored, ms]: AboutKey,
  hasEnded: () => boolean,
): Promise<unknown[]> => {
  const lasts = ms === '0' ? {} : { expiration: { type: 'PX' as const, value: Number(ms) } };
  // Another writer may have replaced the value, so it is not written again. Anything else stored there is removed, because
  // it may be a late fill.
  const removeOther = async (): Promise<unknown> => (await client.get(entry)) !== stored && client.unlink(entry);
  const write = async (): Promise<unknown> => {
    try {
      return await client.set(entry, stored!, lasts);
    } catch (error) {
      // Redis may be full. The previous value must not be read any more.
      if (error instanceof ErrorReply && !hasEnded()) await client.unlink(entry);
      throw error;
    }
  };
  await changeApart(client, lease, write, removeOther, hasEnded);
  return [true];
};

/**
 * Changes the entry and the lease of a key one after the other, because they may be on two masters while its slot migrates.
 */
const changeApart = async (
  client: Client,
  lease: string,
  change: () => Promise<unknown>,
  undoFill: () => Promise<unknown>,
  hasEnded: () => boolean,
): Promise<void> => {
  const end = (): Promise<unknown> => client.unlink(lease);
  // Ending the lease first makes loads in progress too late. A load that began before the entry changed may have taken the
  // lease again and filled the key, so the lease is ended and the fill undone afterwards.
  for (const step of [end, change, end, undoFill]) {
    // The caller has been told that it failed and may have written another value.
    if (hasEnded()) return;
    await step();
  }
};
