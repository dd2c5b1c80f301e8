import type { Outcome } from './execute.js';
import { asPounds } from './money.js';
import { currency, type Plan, type Refusal } from './plan.js';
import type { OrderTotals } from './shop-api.js';

/** The result of a replay. Amounts are in pence; refused amounts have the sign of the file. */
export interface Report {
  lines: number;
  orders_placed: number;
  orders_replayed: number;
  adjustments_recorded: number;
  returns_recorded: number;
  refused: Record<string, { lines: number; total_minor: number }>;
  placed_total_minor: number;
  returned_total_minor: number;
  refused_total_minor: number;
  adjusted_total_minor: number;
  file_total_minor: number;
  currency: string;
}

export interface Reconciliation {
  report: Report;
  /** Differences found; empty if everything adds up. */
  faults: string[];
}

const byReason = (refusals: Refusal[]): Report['refused'] => {
  const lines = new Map<string, Set<number>>();
  const refused: Report['refused'] = {};
  for (const { reason, line, amountMinor } of refusals) {
    // A line that is refused in several parts counts once.
    lines.set(reason, (lines.get(reason) ?? new Set()).add(line));
    const total_minor = (refused[reason]?.total_minor ?? 0) + amountMinor;
    refused[reason] = { lines: lines.get(reason)!.size, total_minor };
  }
  return Object.fromEntries(Object.entries(refused).sort(([a], [b]) => (a < b ? -1 : 1)));
};

const readBackFaults = (outcome: Outcome, read: Map<string, OrderTotals>): string[] =>
  outcome.placed.flatMap(({ invoice, orderId, totalMinor, returnedTotalMinor }) => {
    const order = read.get(orderId);
    const named = `order ${orderId} of invoice ${invoice}`;
    if (order === undefined) return [`${named} was not read back`];
    const faults: string[] = [];
    if (order.totalMinor !== totalMinor)
      faults.push(
        `${named} comes to ${asPounds(order.totalMinor)} at the server, to ${asPounds(totalMinor)} in the file`,
      );
    if (order.returnedTotalMinor !== returnedTotalMinor)
      faults.push(
        `${named} has ${asPounds(order.returnedTotalMinor)} returned at the server, ` +
          `${asPounds(returnedTotalMinor)} in the file`,
      );
    return faults;
  });

/**
 * Accounts for every line: placed − returned + refused + adjusted = file, where placed and returned are what the server
 * reports.
 */
export const reconcile = (plan: Plan, outcome: Outcome, read: Map<string, OrderTotals>): Reconciliation => {
  const refusals = [...plan.refusals, ...outcome.refusals];
  const report: Report = {
    lines: plan.lines,
    orders_placed: outcome.ordersPlaced,
    orders_replayed: outcome.ordersReplayed,
    adjustments_recorded: outcome.adjustmentsRecorded,
    returns_recorded: outcome.returnsRecorded,
    refused: byReason(refusals),
    placed_total_minor: 0,
    returned_total_minor: 0,
    refused_total_minor: refusals.reduce((total, refusal) => total + refusal.amountMinor, 0),
    adjusted_total_minor: outcome.adjustedTotalMinor,
    file_total_minor: plan.fileTotalMinor,
    currency,
  };
  for (const order of read.values()) {
    report.placed_total_minor += order.totalMinor;
    report.returned_total_minor += order.returnedTotalMinor;
  }
  const faults = [...outcome.faults, ...readBackFaults(outcome, read)];
  const found = accountedMinor(report);
  if (found !== report.file_total_minor)
    faults.push(`${asPounds(found)} are accounted for, ${asPounds(report.file_total_minor)} are in the file`);
  return { report, faults };
};

const accountedMinor = (report: Report): number =>
  report.placed_total_minor - report.returned_total_minor + report.refused_total_minor + report.adjusted_total_minor;

const count = (value: number): string => value.toLocaleString('en-GB');

/** The report as a table for people. */
export const asTable = (report: Report): string => {
  const counts: [string, number][] = [
    ['lines in the file', report.lines],
    ['orders placed now', report.orders_placed],
    ['orders placed before', report.orders_replayed],
    ['returns recorded', report.returns_recorded],
    ['stock adjustments recorded', report.adjustments_recorded],
  ];
  const refused = Object.entries(report.refused).map(([reason, { lines, total_minor }]): [string, string, string] => [
    reason,
    count(lines),
    asPounds(total_minor),
  ]);
  const sums: [string, number][] = [
    ['  placed, read back', report.placed_total_minor],
    ['− returned, read back', report.returned_total_minor],
    ['+ refused', report.refused_total_minor],
    ['+ adjusted', report.adjusted_total_minor],
    ['= accounted for', accountedMinor(report)],
    ['  in the file', report.file_total_minor],
  ];
  return [
    ...counts.map(([name, value]) => `${name.padEnd(28)}${count(value).padStart(14)}`),
    '',
    ...(refused.length === 0
      ? ['nothing refused']
      : [
          `${'refused'.padEnd(28)}${'lines'.padStart(14)}${'amount'.padStart(18)}`,
          ...refused.map(
            ([reason, lines, total]) => `  ${reason.padEnd(26)}${lines.padStart(14)}${total.padStart(18)}`,
          ),
        ]),
    '',
    ...sums.map(([name, value]) => `${name.padEnd(28)}${asPounds(value).padStart(32)}`),
  ].join('\n');
};

const examplesShown = 5;

/** Examples of refusals with a detail, a few for each reason. */
export const refusalExamples = (refusals: Refusal[]): string[] => {
  const told = Map.groupBy(
    refusals.filter((refusal) => refusal.detail !== undefined),
    (refusal) => refusal.reason,
  );
  return [...told].flatMap(([reason, all]) => [
    ...all.slice(0, examplesShown).map(({ line, detail }) => `line ${line}: ${reason}: ${detail}`),
    ...(all.length > examplesShown ? [`… and ${count(all.length - examplesShown)} more refused as ${reason}`] : []),
  ]);
};
