import type { Shoppers } from '../fault/shoppers.js';
import { printTable } from '../fault/table.js';
import { Ledger } from '../support/ledger.js';
import type { Shape } from '../support/shapes.js';

/** Prints the measurements: a table for people, and a line of JSON for programs. */
export const printFigures = (engine: string, figures: readonly object[]): void => {
  printTable(`faults of ${engine}`, figures);
  process.stderr.write(`${JSON.stringify({ engine, figures })}\n`);
};

/** Counts the acknowledged orders, and those of them that are missing. */
export const countLost = async (shoppers: Shoppers, shape: Shape): Promise<{ acknowledged: number; lost: number }> => {
  const told = new Set(shoppers.placements.flatMap((it) => (it.outcome === 201 ? it.order!.order_id : [])));
  const rows = await new Ledger(shape).orders<{ order_id: string }>(`SELECT order_id FROM orders.orders`);
  const lost = told.difference(new Set(rows.map((it) => it.order_id)));
  return { acknowledged: told.size, lost: lost.size };
};
