import { expect } from '@jest/globals';
import pg from 'pg';
import { eventually } from '#testing';
import type { ClientLog } from './history.js';
import {
  aKeyHasOneOrder,
  acknowledgementsStand,
  eventsTakeEffectOnce,
  historyLeadsToThePresent,
  moneyAddsUp,
  nothingIsPrepared,
  nothingIsStuck,
  paymentsComeToAnEnd,
  promisesBelongToOrders,
  salesAreWhatWasSold,
  stockIsNeverOversold,
  stockMovesAddUp,
  totalsAddUp,
  type Violation,
} from './invariants.js';
import type { Shape } from './shapes.js';
import { behind, connected, footprint, prepared, query, underWay, waiting, type Row } from './tables.js';

interface Rest {
  /** What clients were told. */
  log?: ClientLog;
  /** Whether holds may still wait for an order: not once every request has its final answer. */
  holdsMayWait?: boolean;
}

/** The databases behind the system, read directly. */
export class Ledger {
  constructor(private readonly shape: Pick<Shape, 'databaseUrls'>) {}

  async orders<R extends Row = Row>(text: string, values: unknown[] = []): Promise<R[]> {
    return query<R>((await this.shape.databaseUrls()).order, text, values);
  }

  async inventory<R extends Row = Row>(text: string, values: unknown[] = []): Promise<R[]> {
    return query<R>((await this.shape.databaseUrls()).inventory, text, values);
  }

  /** Blocks everything that writes to a table of orders until `release`; reads continue. */
  async lock(table: string): Promise<{ release: () => Promise<void> }> {
    const client = await connected((await this.shape.databaseUrls()).order);
    await client.query(
      `BEGIN; LOCK TABLE ${pg.escapeIdentifier('orders')}.${pg.escapeIdentifier(table)} IN SHARE ROW EXCLUSIVE MODE`,
    );
    return { release: () => client.end() };
  }

  /** Rolls back what a killed service has left running in Postgres. */
  async endSessionsOf(service: string): Promise<void> {
    await this.orders(
      `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = $1`,
      [`cleave-${service}`],
    );
  }

  /** Resolves once nothing is prepared, every payment has ended, and all consumers have reached the end of the log. */
  async quiet(): Promise<void> {
    await eventually(async () => expect(await prepared(await this.shape.databaseUrls())).toEqual([]));
    await eventually(async () => expect(await underWay(await this.shape.databaseUrls())).toEqual([]));
    await eventually(async () => expect(await waiting(await this.shape.databaseUrls())).toEqual([]));
    await eventually(async () => expect(await behind(await this.shape.databaseUrls())).toEqual([]));
  }

  /** Counts of all that is stored, once it is quiet: the same before and after a request that was refused as a whole. */
  async footprint(): Promise<Row> {
    await this.quiet();
    return footprint(await this.shape.databaseUrls());
  }

  /** Runs something that must leave no trace. */
  async unchangedBy(work: () => Promise<unknown>): Promise<void> {
    const before = await this.footprint();
    await work();
    expect(await this.footprint()).toEqual(before);
  }

  /** The present violations of the invariants of the design. */
  async violations({ log = { placements: [] }, holdsMayWait = true }: Rest = {}): Promise<Violation[]> {
    const urls = await this.shape.databaseUrls();
    const found = await Promise.all([
      stockIsNeverOversold(urls),
      promisesBelongToOrders(urls),
      acknowledgementsStand(urls, log),
      aKeyHasOneOrder(urls),
      moneyAddsUp(urls),
      nothingIsStuck(urls, { mayWait: holdsMayWait }),
      paymentsComeToAnEnd(urls),
      nothingIsPrepared(urls),
      stockMovesAddUp(urls),
      eventsTakeEffectOnce(urls),
      salesAreWhatWasSold(urls),
      historyLeadsToThePresent(urls),
      totalsAddUp(urls),
    ]);
    return found.flat();
  }

  /** Checks the invariants of the design, once it is quiet. */
  async expectInvariants(rest?: Rest): Promise<void> {
    await this.quiet();
    expect(await this.violations(rest)).toEqual([]);
  }
}
