import { createHash } from 'node:crypto';
import { limits } from '#contracts';
import { UnusableFile, type FileLine } from './file-line.js';
import { isNegative, nearestPence, partOfAmount, penceRoundedUp } from './money.js';

/** The file does not name the currency of its prices. */
export const currency = 'GBP';

/** A line of the file, or a part of it, that is not carried out, and why. */
export interface Refusal {
  reason: string;
  line: number;
  /** The amount that is not carried out, signed as in the file. */
  amountMinor: number;
  detail?: string;
}

export interface CatalogueEntry {
  productId: string;
  name: string;
  unitPriceMinor: number;
}

/** The demand for a product in the file. Its key identifies exactly this demand, so that stock is added only once. */
interface StockNeed {
  productId: string;
  units: number;
  idempotencyKey: string;
}

/** A line of the file with the amount it stands for in a request. */
export interface Share {
  line: number;
  amountMinor: number;
}

export interface OrderStep {
  kind: 'order';
  invoice: string;
  at: number | undefined;
  customerId: string;
  /** The number of a line in the order is its position here, from 1. */
  lines: { productId: string; quantity: number; unitPriceMinor: number }[];
  /** What rounding the prices up to whole pence adds to the total. */
  roundingMinor: number;
  totalMinor: number;
  shares: Share[];
}

/** Returned goods of one order. */
export interface GoodsReturn {
  order: string;
  idempotencyKey: string;
  lines: { productId: string; line: number; quantity: number; amountMinor: number }[];
  totalMinor: number;
  shares: Share[];
}

export interface ReturnStep {
  kind: 'return';
  invoice: string;
  at: number | undefined;
  returns: GoodsReturn[];
}

interface StockAdjustment extends Share {
  productId: string;
  delta: number;
  idempotencyKey: string;
}

export interface AdjustmentStep {
  kind: 'adjustment';
  invoice: string;
  at: number | undefined;
  adjustments: StockAdjustment[];
}

export type Step = OrderStep | ReturnStep | AdjustmentStep;

/** Everything the file asks for, decided from the file alone, so that every run makes the same requests. */
export interface Plan {
  lines: number;
  fileTotalMinor: number;
  catalogue: CatalogueEntry[];
  stock: StockNeed[];
  /** In the order of the file; a return comes after every order that it takes from. */
  steps: Step[];
  /** Refused without asking the server. */
  refusals: Refusal[];
}

type SoundLine = FileLine & { product: string; quantity: number; price: NonNullable<FileLine['price']> };

interface Invoice {
  number: string;
  customerId: string;
  at: number | undefined;
  sales: SoundLine[];
  adjustments: StockAdjustment[];
  cancellations: SoundLine[];
}

const isSound = (line: FileLine): line is SoundLine => line.fault === undefined;
const isAccounting = (invoice: string): boolean => invoice.startsWith('A');
const isCancellation = (invoice: string): boolean => invoice.startsWith('C');

/** Why a sound line is refused whatever the server says; undefined if it is not. */
const refusalReason = (line: SoundLine): string | undefined => {
  if (isAccounting(line.invoice)) return 'accounting-adjustment';
  if (isNegative(line.price)) return 'negative-price';
  if (line.quantity === 0) return 'zero-quantity';
  if (isCancellation(line.invoice) && line.quantity > 0) return 'positive-cancellation';
  return undefined;
};

/** The product's name: the description without what Postgres cannot store, cut to the limit. */
const nameOf = (description: string): string =>
  description.replaceAll('\0', '').slice(0, limits.textLength).toWellFormed();

const catalogueOf = (lines: FileLine[]): CatalogueEntry[] => {
  const entries = new Map<string, CatalogueEntry>();
  for (const { product: productId, description, price } of lines) {
    if (productId === undefined) continue;
    const entry = entries.get(productId) ?? { productId, name: productId, unitPriceMinor: 0 };
    entries.set(productId, entry);
    if (nameOf(description).trim() !== '') entry.name = nameOf(description);
    if (price && !isNegative(price)) entry.unitPriceMinor = Math.min(nearestPence(price), limits.unitPriceMinor);
  }
  return [...entries.values()];
};

/** Groups the lines of the whole file by invoice: those of one invoice need not be adjacent. */
const invoicesOf = (lines: FileLine[], refusals: Refusal[]): Map<string, Invoice> => {
  const invoices = new Map<string, Invoice>();
  const lineCounts = new Map<string, number>();
  for (const line of lines) {
    const position = (lineCounts.get(line.invoice) ?? 0) + 1;
    lineCounts.set(line.invoice, position);
    if (!isSound(line)) {
      refusals.push({
        reason: 'unreadable-line',
        line: line.number,
        amountMinor: line.amountMinor,
        detail: line.fault,
      });
      continue;
    }
    const reason = refusalReason(line);
    if (reason !== undefined) {
      refusals.push({ reason, line: line.number, amountMinor: line.amountMinor });
      continue;
    }
    let invoice = invoices.get(line.invoice);
    if (invoice === undefined) {
      invoice = { number: line.invoice, customerId: '', at: line.at, sales: [], adjustments: [], cancellations: [] };
      invoices.set(line.invoice, invoice);
    }
    // An order has one customer: the first one that its lines name.
    invoice.customerId ||= line.customer;
    if (isCancellation(line.invoice)) invoice.cancellations.push(line);
    else if (line.quantity > 0) invoice.sales.push(line);
    else
      invoice.adjustments.push({
        productId: line.product,
        delta: line.quantity,
        idempotencyKey: `${line.invoice}:adjustment:${position}`,
        line: line.number,
        amountMinor: line.amountMinor,
      });
  }
  for (const invoice of invoices.values()) invoice.customerId ||= 'guest';
  return invoices;
};

const sum = (amounts: Iterable<number>): number => {
  let total = 0;
  for (const amount of amounts) total += amount;
  return total;
};

const orderStep = ({ number, customerId, at, sales }: Invoice): OrderStep => {
  const lines = sales.map(({ product, quantity, price }) => ({
    productId: product,
    quantity,
    unitPriceMinor: penceRoundedUp(price),
  }));
  const totalMinor = sum(sales.map((line) => line.amountMinor));
  const roundingMinor = sum(lines.map((line) => line.quantity * line.unitPriceMinor)) - totalMinor;
  const shares = sales.map((line) => ({ line: line.number, amountMinor: line.amountMinor }));
  return { kind: 'order', invoice: number, at, customerId, lines, roundingMinor, totalMinor, shares };
};

/** Units of one order line that have not been returned yet. */
interface SoldUnits {
  order: string;
  /** The order's position in the file, to find the latest one. */
  orderedAt: number;
  line: number;
  units: number;
}

/** The units that can still be returned, by customer and product. */
class Sales {
  private readonly sold = new Map<string, SoldUnits[]>();

  add(customerId: string, product: string, units: SoldUnits): void {
    const key = JSON.stringify([customerId, product]);
    const sold = this.sold.get(key);
    if (sold === undefined) this.sold.set(key, [units]);
    else sold.push(units);
  }

  /** Takes units back from the latest order first, line by line. @returns from where, possibly fewer than wanted */
  takeBack(customerId: string, product: string, wanted: number): SoldUnits[] {
    const key = JSON.stringify([customerId, product]);
    const left = (this.sold.get(key) ?? []).filter((it) => it.units > 0);
    left.sort((a, b) => b.orderedAt - a.orderedAt || a.line - b.line);
    this.sold.set(key, left);
    const taken: SoldUnits[] = [];
    for (const from of left) {
      const units = Math.min(from.units, wanted);
      if (units === 0) break;
      from.units -= units;
      wanted -= units;
      taken.push({ ...from, units });
    }
    return taken;
  }
}

/** Adds a part of a cancelled line to the return for its order. */
const addToReturn = (
  returns: Map<string, GoodsReturn>,
  cancelled: SoundLine,
  from: SoldUnits,
  creditMinor: number,
): void => {
  let goods = returns.get(from.order);
  if (goods === undefined) {
    const idempotencyKey = `${cancelled.invoice}:${from.order}`;
    goods = { order: from.order, idempotencyKey, lines: [], totalMinor: 0, shares: [] };
    returns.set(from.order, goods);
  }
  // Two cancelled lines may take from one order line, which a return contains only once.
  const line = goods.lines.find((it) => it.line === from.line);
  if (line) {
    line.quantity += from.units;
    line.amountMinor += creditMinor;
  } else
    goods.lines.push({ productId: cancelled.product, line: from.line, quantity: from.units, amountMinor: creditMinor });
  goods.totalMinor += creditMinor;
  goods.shares.push({ line: cancelled.number, amountMinor: -creditMinor });
};

/** Finds the earlier sales that a line cancels; units without one are refused. */
const cancelLine = (
  sales: Sales,
  customerId: string,
  line: SoundLine,
  returns: Map<string, GoodsReturn>,
  refusals: Refusal[],
): void => {
  const units = -line.quantity;
  const creditMinor = -line.amountMinor;
  let done = 0;
  for (const from of sales.takeBack(customerId, line.product, units)) {
    addToReturn(returns, line, from, partOfAmount(creditMinor, units, done, done + from.units));
    done += from.units;
  }
  if (done < units)
    refusals.push({
      reason: 'return-without-sale',
      line: line.number,
      amountMinor: -partOfAmount(creditMinor, units, done, units),
    });
};

/** Allocates returns line by line in the order of the file: a cancellation only finds sales before it. */
const returnsOf = (invoices: Map<string, Invoice>, refusals: Refusal[]): Map<string, GoodsReturn[]> => {
  const all = [...invoices.values()].flatMap((invoice) => [
    ...invoice.sales.map((line, index) => ({ invoice, line, orderLine: index + 1 })),
    ...invoice.cancellations.map((line) => ({ invoice, line, orderLine: 0 })),
  ]);
  all.sort((a, b) => a.line.number - b.line.number);
  const sales = new Sales();
  const returns = new Map<string, Map<string, GoodsReturn>>();
  for (const { invoice, line, orderLine } of all)
    if (orderLine > 0) {
      const sold = { order: invoice.number, orderedAt: invoice.sales[0]!.number, line: orderLine };
      sales.add(invoice.customerId, line.product, { ...sold, units: line.quantity });
    } else {
      const ofInvoice = returns.get(invoice.number) ?? new Map<string, GoodsReturn>();
      returns.set(invoice.number, ofInvoice);
      cancelLine(sales, invoice.customerId, line, ofInvoice, refusals);
    }
  return new Map([...returns].map(([invoice, ofInvoice]) => [invoice, [...ofInvoice.values()]]));
};

/** Whether the API accepts the order; one that it does not needs no stock. */
const fitsTheApi = (sales: SoundLine[]): boolean =>
  sales.length <= limits.lines && sales.every((line) => line.quantity <= limits.quantity);

/**
 * The demand of the whole file for each product. The key is derived from the product and from every sale and adjustment of
 * it: the same demand is added only once, whatever the file is called or packed like, and another file's demand adds to it.
 */
const stockOf = (invoices: Map<string, Invoice>): StockNeed[] => {
  const needs = new Map<string, { units: number; demand: string[] }>();
  const take = (product: string, units: number, origin: string): void => {
    const need = needs.get(product) ?? { units: 0, demand: [product] };
    needs.set(product, need);
    need.units += units;
    need.demand.push(origin, String(units));
  };
  for (const { number, sales, adjustments } of invoices.values()) {
    if (fitsTheApi(sales)) for (const line of sales) take(line.product, line.quantity, number);
    for (const it of adjustments) take(it.productId, -it.delta, it.idempotencyKey);
  }
  return [...needs].map(([productId, { units, demand }]) => {
    const digest = createHash('sha256').update(JSON.stringify(demand)).digest('hex');
    return { productId, units, idempotencyKey: `replay-stock:${digest}` };
  });
};

/**
 * Orders are placed at their first line, returns at their last one: each return then comes after all orders it takes from,
 * so that waiting for them cannot deadlock.
 */
const stepsOf = (invoices: Map<string, Invoice>, returns: Map<string, GoodsReturn[]>): Step[] => {
  const placed: { line: number; step: Step }[] = [];
  for (const invoice of invoices.values()) {
    const { number, at, sales, adjustments, cancellations } = invoice;
    const ofInvoice = returns.get(number) ?? [];
    if (sales.length > 0) placed.push({ line: sales[0]!.number, step: orderStep(invoice) });
    if (adjustments.length > 0)
      placed.push({ line: adjustments[0]!.line, step: { kind: 'adjustment', invoice: number, at, adjustments } });
    if (ofInvoice.length > 0)
      placed.push({
        line: cancellations.at(-1)!.number,
        step: { kind: 'return', invoice: number, at, returns: ofInvoice },
      });
  }
  return placed.sort((a, b) => a.line - b.line).map(({ step }) => step);
};

/** Whether all sums over the file are exact; an order's prices are rounded up by less than a penny per unit. */
const amountsStayExact = (lines: FileLine[]): boolean =>
  sum(lines.map((line) => Math.abs(line.amountMinor) + Math.abs(line.quantity ?? 0))) <= Number.MAX_SAFE_INTEGER;

/**
 * Decides, from the lines of the file alone, what to request from the server and what to refuse without asking.
 *
 * @throws UnusableFile if the amounts are too large to be added up exactly
 */
export const planReplay = (lines: FileLine[]): Plan => {
  if (!amountsStayExact(lines))
    throw new UnusableFile('The amounts of the file add up to 2^53 pence or more: replay it in parts');
  const refusals: Refusal[] = [];
  const invoices = invoicesOf(lines, refusals);
  const returns = returnsOf(invoices, refusals);
  return {
    lines: lines.length,
    fileTotalMinor: sum(lines.map((line) => line.amountMinor)),
    catalogue: catalogueOf(lines),
    stock: stockOf(invoices),
    steps: stepsOf(invoices, returns),
    refusals,
  };
};
