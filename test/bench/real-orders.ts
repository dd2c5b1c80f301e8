import { existsSync } from 'node:fs';
import { readFileLines, type FileLine } from '../../scripts/replay/file-line.js';
import { planReplay } from '../../scripts/replay/plan.js';
import type { Workload } from './workloads.js';

/** Real orders of a shop over four months; not part of the project. */
const file = '../shared/data/online-retail-2010-12_2011-03.csv.gz';

/** Why the mix of real orders is missing; undefined if it is there. */
export const realOrdersAreMissing = (): string | undefined =>
  existsSync(file) ? undefined : `there is no ${file}: the real orders are skipped`;

/** The invoices of the file as orders, with their original prices: realistic combinations and quantities. */
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
