import type { Answer, MoneyMove, Order } from '../support/api.js';
import type { CaptureAttempt, ChangeAttempt, RefundAttempt } from '../support/history.js';
import type { Attempt } from '../support/load.js';

interface Body {
  lines: readonly { product_id: string; quantity: number }[];
}

/** A capture or refund, as a caller asks for it. */
export interface AskedMove {
  orderId: string;
  kind: 'capture' | 'refund';
  /** Null to capture everything. */
  amountMinor: number | null;
  key: string;
  /** The version of the order that it was made conditional on. */
  ifVersion?: number | undefined;
}

/** What callers were told in one run. Answers that cannot be true together are noted as soon as they are heard. */
export class Told {
  readonly placements: (Attempt & { name: string })[] = [];
  readonly changes: ChangeAttempt[] = [];
  readonly refunds: RefundAttempt[] = [];
  readonly captures: CaptureAttempt[] = [];
  /** Moves that were begun for sure, each once. */
  readonly begun = new Map<string, AskedMove>();
  /** Orders without a key: how many were acknowledged, and of how many it is not known. */
  keyless = { placed: 0, unknown: 0 };
  readonly broken: string[] = [];
  /** Refusals may have been forgotten: their keys may be used anew. */
  mayForget = false;
  private readonly answers = new Map<string, string>();
  private readonly outOfStock = new Set<string>();
  /** The conditional moves, by order and key: which versions they named, and whether they were made. */
  private readonly conditions = new Map<string, { orderId: string; versions: Set<number>; isMet: boolean }>();

  /** Answers that are given again must be the same for ever. */
  private same(what: string, answer: string): void {
    const first = this.answers.get(what) ?? answer;
    this.answers.set(what, first);
    if (first !== answer) this.broken.push(`${what} was answered with\n${first}\nand with\n${answer}`);
  }

  placed(key: string | null, name: string, asked: Body, { status, text, body }: Answer<Order>): void {
    if (status === 201) {
      const [wanted, got] = [asked.lines, body.lines].map((lines) =>
        JSON.stringify(lines.map((it) => [it.product_id, it.quantity])),
      );
      if (wanted !== got) this.broken.push(`${name} was asked for under ${key}, and acknowledged as ${text}`);
    }
    const code = codeOf(text);
    if (
      status >= 400 &&
      !/^(out-of-stock|price-changed|idempotency-key-reused|request-in-progress|unavailable|deadline-exceeded)$/.test(
        code,
      )
    )
      this.broken.push(`${name} under ${key} was answered with ${text}`);
    if (key === null) {
      if (status === 201) this.keyless.placed += 1;
      else if (status >= 500) this.keyless.unknown += 1;
      if (status === 201) this.changes.push({ orderId: body.order_id, outcome: status, order: body });
      return;
    }
    const what = `${name} under ${key}`;
    if (status === 201) this.same(what, JSON.stringify(body));
    if (code === 'out-of-stock' && !this.mayForget) {
      this.same(what, shortagesOf(body));
      this.outOfStock.add(what);
    }
    this.placements.push({
      ...{ key, body: asked, name, outcome: status, text },
      ...(status === 201 && { order: body }),
    });
  }

  /** An answer for a repeat, when no request was under way any more. */
  repeated(key: string | null, name: string, answer: Answer): void {
    const what = `${name} under ${key}`;
    if (!isFinal(answer)) this.broken.push(`${what} is not answered although nothing is cut off any more`);
    else if (this.outOfStock.has(what) && codeOf(answer.text) !== 'out-of-stock')
      this.broken.push(`${what} was out of stock, and its repeat was answered with ${answer.text}`);
    const answers = this.placements.filter((it) => it.key === key && it.name === name);
    const order = answers.find((it) => it.outcome === 201)?.text;
    // Prices never return in a run, so no order was placed after such a refusal.
    if (order && answers.some((it) => it.outcome === 409 && codeOf(it.text!) === 'price-changed'))
      this.broken.push(`${what} was refused for its price, and has the order ${order}`);
  }

  changed(orderId: string, verb: string, key: string | null, { status, text, body }: Answer<Order>): void {
    const isChanged = status === 200 || status === 201;
    if (status >= 500 && !/unavailable|deadline-exceeded/.test(text)) this.broken.push(`${verb}: ${text}`);
    if (isChanged && key !== null) this.same(`${verb} ${orderId} under ${key}`, JSON.stringify(body));
    this.changes.push({ orderId, outcome: status, ...(isChanged && { order: body }) });
  }

  moved(asked: AskedMove, { status, text, body }: Answer<MoneyMove>): void {
    const { orderId, kind, amountMinor, key, ifVersion } = asked;
    const what = `a ${kind} of ${amountMinor ?? 'everything'} of ${orderId} under ${key}`;
    const code = codeOf(text);
    if (
      status !== 201 &&
      !/^(payment-refused|payment-not-found|precondition-failed|idempotency-key-reused|unavailable|deadline-exceeded)$/.test(
        code,
      )
    )
      this.broken.push(`${what} was answered with ${text}`);
    const isSucceeded = status === 201 && body.status === 'succeeded';
    // Only a refusal by payment is kept.
    const isRefused = code === 'payment-refused' && text.includes('This Idempotency-Key always');
    if (isSucceeded) this.same(what, JSON.stringify(body));
    if (isRefused) this.same(what, text);
    if (code === 'idempotency-key-reused') this.same(what, code);
    if (status === 201 || isRefused) this.begun.set(what, asked);
    if (ifVersion !== undefined) this.condition(orderId, key).versions.add(ifVersion);
    if (ifVersion !== undefined && isSucceeded) this.condition(orderId, key).isMet = true;
    const attempt = {
      key: `${key} of ${amountMinor}`,
      orderId,
      outcome: status,
      ...(status === 201 && { move: body }),
    };
    // A refusal that is not kept promises nothing: a repeat that was under way may have begun the move.
    const told = { ...attempt, text: code === 'payment-refused' && !isRefused ? '{}' : text };
    if (kind === 'capture') this.captures.push({ ...told, amountMinor });
    else this.refunds.push({ ...told, amountMinor: amountMinor! });
  }

  private condition(orderId: string, key: string) {
    const name = `${orderId} ${key}`;
    const known = this.conditions.get(name) ?? { orderId, versions: new Set(), isMet: false };
    this.conditions.set(name, known);
    return known;
  }

  /** A version of an order that several conditional moves have built on, of which each named no other. */
  builtOnTwice(): string[] {
    const met = [...this.conditions.values()].filter((it) => it.isMet && it.versions.size === 1);
    return [...Map.groupBy(met, (it) => `${it.orderId} at version ${[...it.versions].join()}`)].flatMap(
      ([name, moves]) => (moves.length > 1 ? [`${moves.length} conditional moves were made of ${name}`] : []),
    );
  }

  /**
   * What promises something for ever. A refusal promises it for its command: of two commands that use one key at the same
   * time, one may be refused and the other placed.
   */
  promised(): Attempt[] {
    return this.placements.filter(({ key, name, outcome }) => {
      if (outcome !== 409) return true;
      return !this.mayForget && !this.placements.some((it) => it.key === key && it.name !== name && it.outcome === 201);
    });
  }
}

/** What was missing; Postgres stores the keys of an object in another order. */
const shortagesOf = (body: unknown): string => {
  const { products } = body as { products: { product_id: string; requested: number; available: number }[] };
  return JSON.stringify(products.map((it) => [it.product_id, it.requested, it.available]));
};

const codeOf = (text: string): string => (JSON.parse(text) as { code?: string }).code ?? '';

export const isFinal = ({ status, text }: Answer): boolean => status < 500 && codeOf(text) !== 'request-in-progress';

/** Whether a move of money was made, or refused for good. */
export const isDecided = ({ status, text, body }: Answer<MoneyMove>): boolean =>
  status === 201 ? body.status === 'succeeded' : status < 500 && !text.includes('in progress');
