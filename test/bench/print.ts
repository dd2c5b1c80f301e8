import type { Figure } from './figures.js';
import { goals, verdictOf, type Goal } from './goals.js';
import type { Report } from './report.js';
import { median } from './statistics.js';
import { benchmarkName } from './suites/cache.js';
import { shown, tableOf } from './table.js';

const driverNote =
  'Load: raw sockets, HTTP/1.1 keep-alive, from a separate process. CPU is user and system time in ms per order (or\n' +
  'request): node = the system under test, pg = all processes of Postgres, load = the load generator, broker = the message\n' +
  'broker. For calls, node includes client and server. A run lasts from the first request until the last order is final;\n' +
  'figures are medians of the runs, range is the lowest and the highest rate. others is the share of the CPU that other\n' +
  'programs used; if it is high, the figures are useless.';

const ratio = (value: number): string => (Number.isFinite(value) ? `${shown(value)}×` : '');

const percent = (share: number): string => (Number.isFinite(share) ? `${Math.round(share * 100)}%` : '');

/** The contestants to compare with; a limit is taken at its own best number of connections, for any number of callers. */
const references = [
  { head: '/limit a', name: 'limit a', sameCallers: false },
  { head: '/limit b', name: 'limit b', sameCallers: false },
  { head: '/bare', name: 'bare', sameCallers: true },
  { head: '/baseline', name: 'baseline', sameCallers: true },
  { head: '/echo', name: 'echo', sameCallers: true },
  { head: '/nest', name: 'nest', sameCallers: true },
  { head: '/redis-benchmark', name: benchmarkName, sameCallers: false },
  { head: '/node-redis', name: 'node-redis', sameCallers: true },
  { head: '/monolith', name: 'monolith', sameCallers: true },
];

/** `one 33%, two 67%`, over all runs. */
const sharesOf = ({ runs }: Figure): string => {
  const answered = Map.groupBy(
    runs.flatMap((it) => Object.entries(it.answeredBy)),
    ([instance]) => instance,
  );
  const counts = [...answered].map(([instance, all]) => [instance, all.reduce((sum, [, it]) => sum + it, 0)] as const);
  const whole = counts.reduce((sum, [, it]) => sum + it, 0);
  return counts
    .toSorted(([one], [other]) => one.localeCompare(other))
    .map(([instance, count]) => `${instance} ${((100 * count) / whole).toFixed(1)}%`)
    .join(', ');
};

const rowOf = (report: Report, figure: Figure): string[] => {
  const middle = (measure: Parameters<Figure['values']>[0]): number => median(figure.values(measure));
  const rates = figure.values('perSecond');
  const failures = figure.runs.flatMap((it) => Object.entries(it.failures));
  return [
    figure.contestant,
    String(figure.callers),
    shown(middle('perSecond')),
    `${shown(Math.min(...rates))}–${shown(Math.max(...rates))}`,
    shown(middle('linesPerSecond')),
    shown(middle('p50Ms')),
    shown(middle('p95Ms')),
    shown(middle('p99Ms')),
    shown(middle('nodeMs')),
    shown(middle('postgresMs')),
    shown(middle('driverMs')),
    shown(middle('brokerMs')),
    shown(middle('backlogMost')),
    shown(middle('backlogAtEnd')),
    shown(middle('drainMs')),
    ...references.map(({ name, sameCallers }) =>
      figure.contestant === name || (sameCallers && figure.contestant.startsWith('limit'))
        ? ''
        : ratio(
            middle('perSecond') /
              report.median('perSecond', name, figure.workload, sameCallers ? figure.callers : undefined),
          ),
    ),
    sharesOf(figure),
    percent(middle('othersShare')),
    failures.map(([reason, times]) => `${reason}: ${times}`).join(', '),
  ];
};

const head = [
  ...['who', 'callers', 'per s', 'range', 'lines/s', 'p50 ms', 'p95', 'p99', 'node', 'pg', 'load', 'broker'],
  ...['backlog', 'at end', 'drain ms', ...references.map((it) => it.head), 'by instance', 'others', 'failed'],
];

/** Leaves out columns that are empty. */
const withoutEmptyColumns = (head: string[], rows: string[][]): string => {
  const kept = head.map((_, column) => rows.some((row) => row[column] !== ''));
  const of = (row: string[]): string[] => row.filter((_, column) => kept[column]);
  return tableOf(of(head), rows.map(of));
};

const calibrationsOf = ({ calibrations }: Report, workload: string): string[] =>
  [...Map.groupBy(calibrations, (it) => it.contestant)].flatMap(([contestant, all]) => {
    const some = all.filter((it) => it.workload === workload);
    const sizes = some.map((it) => `${it.connections}: ${shown(it.perSecond)}`).join(', ');
    return some.length === 0 ? [] : [`${contestant} by connections (calibration): ${sizes} a second`];
  });

/** The goal as text: `at least 0.7×`. */
const boundOf = ({ least, most, unit }: Goal): string => {
  if (least !== undefined) return `at least ${shown(least)}${unit}`;
  return most === undefined ? '' : `at most ${shown(most)}${unit}`;
};

/** The bound of this design as text: `1.6×, nest`. */
const boundIn = (goal: Goal, report: Report): string => {
  const value = goal.bound === undefined ? Number.NaN : goal.value(report, goal.bound);
  return Number.isNaN(value) ? '' : `${shown(value)}${goal.unit}, ${goal.bound}`;
};

/** Goals that the chosen suites did not measure are only counted. */
const goalsOf = (report: Report): string => {
  const all = goals.map((goal) => ({ goal, value: goal.value(report) }));
  const measured = all.filter(({ value }) => !Number.isNaN(value));
  const rows = measured.map(({ goal, value }) => [
    goal.name,
    boundOf(goal),
    `${shown(value)}${goal.unit}`,
    verdictOf(goal, value),
    boundIn(goal, report),
  ]);
  const others = all.length - measured.length;
  return [
    ...(rows.length > 0 ? [withoutEmptyColumns(['goal', 'asked', 'measured', '', 'bound'], rows)] : []),
    ...(others > 0 ? [`${others} goals were not measured.`] : []),
  ].join('\n');
};

const memoryOf = ({ memory }: Report): string[] =>
  memory
    ? [
        `memory over ${shown(memory.minutes)} minutes, once settled: from ${shown(memory.firstMb)} MB to ` +
          `${shown(memory.lastMb)} MB, ${shown(memory.mbPerMinute)} MB a minute`,
      ]
    : [];

const noisyShare = 0.05;

const noiseOf = ({ runs }: Report): string[] => {
  const shares = runs.map((it) => it.othersShare).filter((it) => !Number.isNaN(it));
  const most = Math.max(...shares);
  if (!(most > noisyShare)) return [];
  return [
    `Other programs used ${percent(median(shares))} of this machine in a typical run and ${percent(most)} in the worst: ` +
      'repeat this on a quiet one.',
  ];
};

/** The report as text. */
export const printed = (report: Report): string => {
  const groups = Map.groupBy(report.figures(), (it) => it.workload);
  const tables = [...groups].map(([workload, figures]) =>
    [
      `## ${workload}`,
      withoutEmptyColumns(
        head,
        figures.map((it) => rowOf(report, it)),
      ),
      ...calibrationsOf(report, workload),
    ].join('\n'),
  );
  const faults =
    report.faults.length === 0
      ? ['Stock is exact to the unit after every run, and no acknowledged order is lost.']
      : ['WRONG:', ...report.faults];
  return [
    ...tables,
    driverNote,
    ...memoryOf(report),
    ...noiseOf(report),
    ...report.notes,
    goalsOf(report),
    faults.join('\n'),
  ].join('\n\n');
};

/** The report as JSON. Figures that were not measured are null. */
export const asJson = (report: Report, about: object): string =>
  JSON.stringify(
    {
      ...about,
      faults: report.faults,
      notes: report.notes,
      goals: goals.map((goal) => {
        const { name, least, most, bound } = goal;
        const value = goal.value(report);
        const ofBound = bound !== undefined && { bound, boundValue: goal.value(report, bound) };
        return { name, least, most, value, verdict: verdictOf(goal, value), ...ofBound };
      }),
      calibrations: report.calibrations,
      memory: report.memory,
      runs: report.runs,
    },
    undefined,
    2,
  );
