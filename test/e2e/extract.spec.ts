import { afterEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { eventually } from '#testing';
import { acknowledged, expectAnswers, Trial } from '../support/trial.js';
import { ok } from '../support/api.js';
import { commandsIn } from '../support/runbooks.js';
import { startExtractable } from '../support/scaled-shapes.js';
import type { RunningService } from '../support/shapes.js';
import { query } from '../support/tables.js';
import { Visits } from '../support/visits.js';

/** Pause between the requests of each caller: all orders are repeated at the end, and thousands would only take time. */
const thinkMs = 100;

const slots = ['shop-1', 'shop-2', 'inventory'];
type Slots = [RunningService, RunningService, RunningService];

/** Follows the steps of docs/extract.md. */
describe('inventory', () => {
  let trial: Trial | undefined;
  afterEach(async () => {
    await trial?.shape.stop();
    trial = undefined;
  });

  it('is extracted into its own service and put back under load without a failed request', async () => {
    trial = new Trial(await startExtractable());
    const { shape, api } = trial;
    await trial.stock();
    const load = trial.load(thinkMs);
    const visited = await api.product({ onHand: 1_000_000 });
    const visits = new Visits(shape.entrances, 4, visited);
    ok(await api.send('PUT', '/cache', { body: { key: 'kept', value: 'before' } }));
    const goOn = async (count = 50): Promise<void> => {
      const before = acknowledged(load.attempts).length;
      await load.until(() => acknowledged(load.attempts).length > before + count);
    };
    const [monolith, turned, inventory] = slots.map((name) => shape.service(name)) as Slots;
    await goOn();
    await inventory.restart();
    await goOn();
    await turned.restart();
    await goOn();
    expect(await monolith.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    await goOn();
    await monolith.restart();
    expect(await turned.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    expect(await inventory.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    await goOn();
    await visits.end();
    expectAnswers(await load.end(), [201, 409]);
    expect(visits.failures).toEqual([]);
    await visits.expectKept(api, trial.ledger, 1_000_000);
    expect(ok(await api.get('/cache?key=kept'))).toMatchObject({ value: 'before' });
    await trial.settle();
  });

  it('moves to its own database while it is stopped, keeps it when it is put back, and retried orders are neither lost nor duplicated', async () => {
    let own = '';
    const copyOf = (url: string): string => {
      own = new URL(url).pathname.slice(1);
      return url.replace(own, `${own}_inventory`);
    };
    const shape = await startExtractable(copyOf);
    const copyUrl = copyOf((await shape.databaseUrls()).order);
    let isCopied = false;
    const urls = async () => ({ ...(await shape.databaseUrls()), ...(isCopied && { inventory: copyUrl }) });
    trial = new Trial({ ...shape, databaseUrls: urls });
    await trial.stock();
    const load = trial.load(thinkMs);
    const goOn = async (): Promise<void> => {
      const before = acknowledged(load.attempts).length;
      await load.until(() => acknowledged(load.attempts).length > before + 50);
    };
    const [monolith, turned, inventory] = slots.map((name) => shape.service(name)) as Slots;
    await goOn();
    expect(await monolith.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    const server = new pg.Client((await shape.databaseUrls()).order.replace(/\/[^/]*$/, '/postgres'));
    await server.connect();
    try {
      await server.query(
        `CREATE DATABASE ${pg.escapeIdentifier(`${own}_inventory`)} TEMPLATE ${pg.escapeIdentifier(own)}`,
      );
      isCopied = true;
      const [retire] = commandsIn('To a database of its own', 'sql', 'docs/extract.md');
      await query((await shape.databaseUrls()).order, retire!);
      await Promise.all([inventory.restart(), turned.restart()]);
      await goOn();
      // Without the new address, it would decide about the same stock in the old database.
      const mistaken = monolith.restart().catch(String);
      await eventually(async () => expect(monolith.log).toContain('It serves order database moved'));
      await monolith.kill('SIGTERM');
      expect(await mistaken).toContain('instead of becoming ready');
      await shape.service('shop-back').restart();
      expect(await turned.kill('SIGTERM')).toEqual({ code: 0, signal: null });
      expect(await inventory.kill('SIGTERM')).toEqual({ code: 0, signal: null });
      await goOn();
      expectAnswers(await load.end(), [201, 409, 503]);
      await trial.settle();
      await shape.stop();
      trial = undefined;
      await server.query(`DROP DATABASE ${pg.escapeIdentifier(`${own}_inventory`)}`);
    } finally {
      await server.end();
    }
  });
});
