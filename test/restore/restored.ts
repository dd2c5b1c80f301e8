import { ok, type EventPage } from '../support/api.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { allAt } from '../support/tables.js';
import { Trial } from '../support/trial.js';

/** A monolith on this database. */
export const monolithOn = async (url: string): Promise<Shape> => {
  const [port] = await servicePorts(1);
  return startPlan('restored', {
    services: [{ app: 'monolith', port: port!, environment: { DATABASE_URL: url, WEBHOOKS_ALLOW_PRIVATE: 'true' } }],
    databaseUrls: () => Promise.resolve(allAt(url)),
    release: () => Promise.resolve(),
  });
};

export const orderIds = (trial: Trial): Promise<{ order_id: string }[]> =>
  trial.ledger.orders(`SELECT order_id FROM orders.orders WHERE status <> 'void' ORDER BY order_id`);

/** All events after a cursor. */
export const eventsAfter = async (trial: Trial, cursor?: string): Promise<{ ids: string[]; cursor: string }> => {
  const ids: string[] = [];
  for (let after = cursor; ;) {
    const from = after === undefined ? '' : `&after=${after}`;
    const page = ok(await trial.api.get<EventPage>(`/events?limit=200${from}`));
    ids.push(...page.data.map((it) => it.event_id));
    if (page.data.length === 0) return { ids, cursor: page.next_cursor };
    after = page.next_cursor;
  }
};
