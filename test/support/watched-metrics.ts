import { readFile, readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

export const observability = fileURLToPath(new URL('../../docker/observability', import.meta.url));

/** The expressions in dashboards and rules, with where they are. */
export const watchedExpressions = async (): Promise<[where: string, expression: string][]> => {
  const folder = `${observability}/grafana/dashboards`;
  const boards = await Promise.all(
    (await readdir(folder)).map(async (file) => {
      const { panels } = JSON.parse(await readFile(`${folder}/${file}`, 'utf8')) as {
        panels: { title: string; targets: { expr: string }[] }[];
      };
      return panels.flatMap(({ title, targets }) =>
        targets.map(({ expr }): [string, string] => [`${file}: ${title}`, expr]),
      );
    }),
  );
  return [...boards.flat(), ...(await rules()).map((it): [string, string] => [it.alert ?? it.record!, it.expr])];
};

interface Rule {
  alert?: string;
  record?: string;
  expr: string;
}

export const rules = async (): Promise<Rule[]> => {
  const { groups } = parse(await readFile(`${observability}/rules.yml`, 'utf8')) as { groups: { rules: Rule[] }[] };
  return groups.flatMap((it) => it.rules);
};

/** The labels that Prometheus adds. */
const added = new Set(['service', 'instance', 'job', 'le']);
const ofPrometheus = new Set(['up']);

/** The metrics in an expression, each with the labels that it uses. */
export const metricsIn = (expression: string): { metric: string; labels: string[] }[] => {
  const bare = expression.replaceAll(/"(?:[^"\\]|\\.)*"/g, '""');
  const grouped = [...bare.matchAll(/\b(?:by|on) \(([^)]*)\)/g)].flatMap(([, names = '']) => labelsIn(names));
  const rest = bare.replaceAll(/\b(?:by|on) \([^)]*\)/g, ' ').replaceAll(/\[[^\]]*\]/g, '');
  // A metric is a name that is neither called like a function nor a keyword.
  return [...rest.matchAll(/([a-z_:][\w:]*)\s*(\{[^}]*\})?(?!\s*[\w(:])/gi)]
    .map(([, metric = '', selector = '']) => ({
      metric,
      labels: [...grouped, ...[...selector.matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g)].map(([, name = '']) => name)],
    }))
    .filter(({ metric }) => !/^(?:and|or|unless)$/.test(metric) && !metric.startsWith('cleave:'))
    .filter(({ metric }) => !ofPrometheus.has(metric))
    .map(({ metric, labels }) => ({ metric, labels: labels.filter((it) => !added.has(it)) }));
};

const labelsIn = (names: string): string[] => names.split(',').map((it) => it.trim());
