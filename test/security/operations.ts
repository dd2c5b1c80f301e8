import { scopes } from '#contracts';

interface Parameter {
  name: string;
  in: 'path' | 'query' | 'header';
  required?: boolean;
  schema?: { example?: unknown };
}

interface Described {
  operationId: string;
  security?: Record<string, string[]>[];
  parameters?: Parameter[];
  requestBody?: { content: Record<string, { examples?: Record<string, { value: unknown }> }> };
}

export interface Operation {
  operationId: string;
  name: string;
  method: string;
  /** Such as `/orders/{id}`. */
  template: string;
  /** The scope that the operation requires; undefined if it is open. */
  scope: string | undefined;
  /** The example of its body, if it takes one. */
  body: unknown;
  takesKey: boolean;
  query: string;
}

/** The open operations. They are repeated here so that none is opened by mistake. */
export const openOperations = [
  'GET /health/live',
  'GET /health/ready',
  'GET /metrics',
  'POST /payments/webhooks/stripe',
  'GET /problems/{code}',
];

/** Changes that are too frequent to be audited. */
export const everydayOperations = [
  ...[
    'POST /orders',
    'POST /order',
    'POST /orders/{id}/cancel',
    'POST /orders/{id}/fulfil',
    'POST /orders/{id}/returns',
  ],
  ...['PUT /products/{id}', 'POST /products/batch', 'POST /stock/{product_id}/adjustments'],
  ...['PUT /cache', 'DELETE /cache', 'POST /cache/batch', 'POST /cache/lease', 'POST /cache/invalidate'],
  ...['POST /cache/counters', 'POST /webhook-endpoints/{endpoint_id}/test'],
  ...['POST /webhook-endpoints/{endpoint_id}/redeliver', 'POST /webhook-deliveries/{delivery_id}/redeliver'],
];

export const operationsIn = ({ paths }: { paths: Record<string, Record<string, Described>> }): Operation[] =>
  Object.entries(paths).flatMap(([template, item]) =>
    Object.entries(item).map(([method, described]) => operationOf(template, method.toUpperCase(), described)),
  );

const operationOf = (template: string, method: string, described: Described): Operation => {
  const { operationId, security, parameters = [], requestBody } = described;
  const name = `${method} ${template}`;
  const named = security?.flatMap((it) => it['bearer'] ?? []) ?? [];
  if (security && named.length !== 1) throw new Error(`${name} names ${named.length} scopes`);
  const [example] = Object.values(requestBody?.content['application/json']?.examples ?? {});
  const required = parameters.filter((it) => it.in === 'query' && it.required);
  const query = new URLSearchParams(
    required.map((it): [string, string] => [it.name, String(it.schema?.example)]),
  ).toString();
  return {
    ...{ operationId, name, method, template, scope: named[0], body: example?.value },
    takesKey: parameters.some((it) => it.name === 'Idempotency-Key'),
    query: query === '' ? '' : `?${query}`,
  };
};

/** All scopes except one. */
export const allBut = (scope: string): string[] => scopes.filter((it) => it !== scope);

export const pathOf = ({ template, query }: Operation, ids: (name: string) => string): string =>
  template.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(ids(name))) + query;
