import { randomUUID } from 'node:crypto';
import { NO_MESSAGE_HANDLER } from '@nestjs/microservices/constants.js';
import { describe, expect, it } from '@jest/globals';
import { CleaveError, type inventoryContract } from '#contracts';
import type { ContractClient } from '#messaging';
import { MessagingStock } from '../src/adapters/messaging-stock.js';

/** An inventory that answers in this way whether it serves these orders. */
const stockOf = (join: () => Promise<unknown>): { stock: MessagingStock; asked: string[] } => {
  const asked: string[] = [];
  const call = async (operation: string): Promise<unknown> => {
    asked.push(operation);
    if (operation === 'reserve') return { decisions: [{ outcome: 'held', order_id: randomUUID() }], products: [] };
    return operation === 'join' ? join() : { holds: [], looked_at: new Date() };
  };
  const inventory = { call } as unknown as ContractClient<typeof inventoryContract>;
  return { stock: new MessagingStock(inventory, 1_000, randomUUID()), asked };
};

describe('the inventory behind the orders', () => {
  it('is joined once, before anything else', async () => {
    const { stock, asked } = stockOf(() => Promise.resolve({}));
    expect(await stock.condition()).toEqual({ isDegraded: false, details: {} });
    await stock.overdue(null, 0, 1);
    await stock.overdue(null, 0, 1);
    expect(asked).toEqual(['join', 'overdue', 'overdue']);
  });

  it('that is of a version without joining serves as it did, and is not asked each time', async () => {
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

  it('that cannot be reached degrades what can go on, and is asked again', async () => {
    let isAway = true;
    const { stock } = stockOf(() =>
      isAway ? Promise.reject(new CleaveError('unavailable', 'nobody answers')) : Promise.resolve({}),
    );
    expect(await stock.condition()).toEqual({ isDegraded: true, details: { inventory: 'is unavailable' } });
    await expect(stock.overdue(null, 0, 1)).rejects.toThrow('nobody answers');
    isAway = false;
    expect(await stock.condition()).toEqual({ isDegraded: false, details: {} });
  });

  it('that was joined and cannot be reached any more degrades as well, and is not joined anew', async () => {
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

  it('that serves others by now is none any more', async () => {
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

  it('that is slow is not waited for by a check of readiness', async () => {
    const { stock } = stockOf(() => new Promise(() => undefined));
    expect(await stock.condition()).toMatchObject({ isDegraded: true });
  });

  it('that serves others is none: operators hear which, and callers do not', async () => {
    const serves = randomUUID();
    const { stock } = stockOf(() => Promise.reject(new CleaveError('unavailable', 'It serves others.', { serves })));
    await expect(stock.condition()).rejects.toThrow(`It serves order database ${serves}; this one is `);
    const refusal = await stock.overdue(null, 0, 1).catch((error: unknown) => error as CleaveError);
    expect(refusal).toMatchObject({ code: 'unavailable', detail: 'It serves others.', extensions: {} });
  });

  it('that decides fewer reservations than it was asked for is not believed in any', async () => {
    const { stock } = stockOf(() => Promise.resolve({}));
    const asked = { reservation_id: randomUUID(), order_id: randomUUID(), lines: [{ product_id: 'p', quantity: 1 }] };
    await expect(stock.reserve('t', [asked, asked])).rejects.toThrow('2 reservations and returned 1 decisions');
  });
});
