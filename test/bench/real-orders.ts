import { existsSync } from 'node:fs';
import { readFileLines, type FileLine } from '../../scripts/replay/file-line.js';
import { planReplay } from '../../scripts/replay/plan.js';
import type { Workload } from './workloads.js';

/** Real orders of four months of a shop; not part of the project. */
const file = '../shared/data/online-retail-2010-12_2011-03.csv.gz';

/** Why there is no real mix; undefined when there is one. */
export const realOrdersAreMissing = (): string | undefined =>
  existsSync(file) ? undefined : `there is no ${file}: the real orders are skipped`;

/** The invoices of the file as orders, with the prices they were sold at: what was bought together, and how much of it. */
export const realWorkload = async (): Promise<Workload> => {
  const lines: FileLine[] = [];
  for await (const line of readFileLines(file)) lines.push(line);
  const { catalogue, steps } = planReplay(lines);
  const orders = steps
    .filter((it) => it.kind === 'order')
    .map(({ customerId, invoice, lines }) => ({
      body: JSON.stringify({
        customer_id: customerId,
        reference: invoice,
        lines: lines.map((it) => ({
          product_id: it.productId,
          quantity: it.quantity,
          unit_price_minor: it.unitPriceMinor,
        })),
      }),
      lines,
    }));
  return { name: 'mix', catalogue, orders };
};
