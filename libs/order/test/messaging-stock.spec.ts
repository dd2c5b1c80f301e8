import { randomUUID } from 'node:crypto';
import { NO_MESSAGE_HANDLER } from '@nestjs/microservices/constants.js';
import { describe, expect, it } from '@jest/globals';
import { CleaveError, type inventoryContract } from '#contracts';
import type { ContractClient } from '#messaging';
import { MessagingStock } from '../src/adapters/messaging-stock.js';

/**
 * The adapter to an inventory that answers `join` in this way, and the operations that it was asked for.
 *
 * @param overdue answers `overdue`
 */
const stockOf = (
  join: () => Promise<unknown>,
  overdue: () => Promise<unknown> = () => Promise.resolve({ holds: [], looked_at: new Date() }),
): { stock: MessagingStock; asked: string[] } => {
  const asked: string[] = [];
  const call = async (operation: string): Promise<unknown> => {
    asked.push(operation);
    if (operation === 'reserve') return { decisions: [{ outcome: 'held', order_id: randomUUID() }], products: [] };
    return operation === 'join' ? join() : overdue();
  };
  const inventory = { call } as unknown as ContractClient<typeof inventoryContract>;
  let first: string | undefined;
  const keepFirst = async (inventoryId: string): Promise<string> => (first ??= inventoryId);
  return { stock: new MessagingStock(inventory, 1_000, randomUUID(), keepFirst), asked };
};

describe('MessagingStock', () => {
  it('joins inventory once, before any other call', async () => {
    const { stock, asked } = stockOf(() => Promise.resolve({}));
    expect(await stock.condition()).toEqual({ isDegraded: false, details: {} });
    await stock.overdue(null, 0, 1);
    await stock.overdue(null, 0, 1);
    expect(asked).toEqual(['join', 'overdue', 'overdue']);
  });

  it('works with an older inventory that has no join operation, and asks it only once', async () => {
    const unanswered = new CleaveError(
      'internal',
      'inventory.join has no handler there',
      {},
      { cause: NO_MESSAGE_HANDLER },
    );
    const { stock, asked } = stockOf(() => Promise.reject(unanswered));
    expect(await stock.condition()).toEqual({ isDegraded: false, details: {} });
    await stock.overdue(null, 0, 1);
    await stock.overdue(null, 0, 1);
    expect(asked).toEqual(['join', 'overdue', 'overdue']);
  });

  it('reports an unreachable inventory as degraded, and joins it when it is back', async () => {
    let isAway = true;
    const { stock } = stockOf(() =>
      isAway ? Promise.reject(new CleaveError('unavailable', 'nobody answers')) : Promise.resolve({}),
    );
    expect(await stock.condition()).toEqual({ isDegraded: true, details: { inventory: 'is unavailable' } });
    await expect(stock.overdue(null, 0, 1)).rejects.toThrow('nobody answers');
    isAway = false;
    expect(await stock.condition()).toEqual({ isDegraded: false, details: {} });
  });

  it('reports a joined inventory as degraded while it is unreachable, and need not join it again', async () => {
    let isAway = false;
    const { stock, asked } = stockOf(() =>
      isAway ? Promise.reject(new CleaveError('unavailable', 'nobody answers')) : Promise.resolve({}),
    );
    await stock.overdue(null, 0, 1);
    isAway = true;
    expect(await stock.condition()).toEqual({ isDegraded: true, details: { inventory: 'is unavailable' } });
    await stock.overdue(null, 0, 1);
    expect(asked).toEqual(['join', 'overdue', 'join', 'overdue']);
    isAway = false;
    expect(await stock.condition()).toEqual({ isDegraded: false, details: {} });
  });

  it('rejects an inventory that serves another order database since it was joined', async () => {
    const serves = randomUUID();
    let isOurs = true;
    const { stock } = stockOf(() =>
      isOurs ? Promise.resolve({}) : Promise.reject(new CleaveError('unavailable', 'It serves others.', { serves })),
    );
    await stock.overdue(null, 0, 1);
    isOurs = false;
    await expect(stock.condition()).rejects.toThrow(`It serves order database ${serves}; this one is `);
    await expect(stock.overdue(null, 0, 1)).rejects.toThrow('It serves others.');
  });

  it('reports an inventory that does not answer as degraded, instead of waiting for it', async () => {
    const { stock } = stockOf(() => new Promise(() => undefined));
    expect(await stock.condition()).toMatchObject({ isDegraded: true });
  });

  it('rejects an inventory of another order database, which it names to operators but not to callers', async () => {
    const serves = randomUUID();
    const { stock } = stockOf(() => Promise.reject(new CleaveError('unavailable', 'It serves others.', { serves })));
    await expect(stock.condition()).rejects.toThrow(`It serves order database ${serves}; this one is `);
    const refusal = await stock.overdue(null, 0, 1).catch((error: unknown) => error as CleaveError);
    expect(refusal).toMatchObject({ code: 'unavailable', detail: 'It serves others.', extensions: {} });
  });

  it('settles nothing in an inventory of another order database, because the events would count as delivered', async () => {
    const serves = randomUUID();
    const { stock, asked } = stockOf(() =>
      Promise.reject(new CleaveError('unavailable', 'It serves others.', { serves })),
    );
    const effect = { reservation_id: randomUUID(), version: 1, kind: 'confirm' } as const;
    await expect(stock.settle('t', [effect])).rejects.toThrow('It serves others.');
    expect(asked).toEqual(['join']);
  });

  it('rejects another database of inventory than the first one, which it names to operators but not to callers', async () => {
    const [first, other] = [randomUUID(), randomUUID()];
    let inventory_id = first;
    const { stock } = stockOf(async () => ({ inventory_id }));
    await stock.overdue(null, 0, 1);
    inventory_id = other;
    await expect(stock.condition()).rejects.toThrow(`This is inventory database ${other}; that one is ${first}.`);
    const refusal = await stock.overdue(null, 0, 1).catch((error: unknown) => error as CleaveError);
    expect(refusal).toMatchObject({ code: 'unavailable', extensions: {} });
    expect((refusal as CleaveError).detail).toContain('in another database of inventory');
    expect((refusal as CleaveError).detail).not.toContain(first);
    inventory_id = first;
    await stock.overdue(null, 0, 1);
  });

  it.each([
    ['joins an inventory that was away once more, because it may be on another database by now', {}, 2],
    ['does not join an inventory again that was only too busy', { retry_after_ms: 1_000 }, 1],
  ])('%s', async (_name, extensions, joins) => {
    let isFailing = false;
    const { stock, asked } = stockOf(
      () => Promise.resolve({}),
      () =>
        isFailing
          ? Promise.reject(new CleaveError('unavailable', 'not now', extensions))
          : Promise.resolve({ holds: [], looked_at: new Date() }),
    );
    await stock.overdue(null, 0, 1);
    isFailing = true;
    await expect(stock.overdue(null, 0, 1)).rejects.toThrow('not now');
    isFailing = false;
    await stock.overdue(null, 0, 1);
    expect(asked.filter((operation) => operation === 'join')).toHaveLength(joins);
  });

  it('rejects a reply with fewer decisions than reservations', async () => {
    const { stock } = stockOf(() => Promise.resolve({}));
    const asked = { reservation_id: randomUUID(), order_id: randomUUID(), lines: [{ product_id: 'p', quantity: 1 }] };
    await expect(stock.reserve('t', [asked, asked])).rejects.toThrow('2 reservations and returned 1 decisions');
  });
});
