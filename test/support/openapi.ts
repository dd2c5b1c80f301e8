export interface Schema {
  $ref?: string;
  type?: string | string[];
  const?: unknown;
  enum?: unknown[];
  example?: unknown;
  examples?: unknown[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
  items?: Schema;
  minItems?: number;
  maxItems?: number;
  minLength?: number;
  maxLength?: number;
  minimum?: number;
  maximum?: number;
  pattern?: string;
  format?: string;
}

export interface Parameter {
  name: string;
  in: 'path' | 'query' | 'header';
  required?: boolean;
  schema: Schema;
}

interface Described {
  operationId: string;
  tags: string[];
  security?: Record<string, string[]>[];
  parameters?: Parameter[];
  requestBody?: { content: Record<string, { schema: Schema; examples: Record<string, { value: unknown }> }> };
  responses: Record<string, { content?: Record<string, unknown> }>;
}

/** What tests read of the OpenAPI document. */
export interface OpenApi {
  openapi: string;
  info: { title: string; version: string };
  tags: { name: string }[];
  paths: Record<string, Record<string, Described>>;
  components: { schemas: Record<string, Schema> };
}

export interface Operation extends Pick<Described, 'operationId' | 'responses'> {
  /** Such as `GET /orders/{id}`. */
  name: string;
  method: string;
  /** Such as `/orders/{id}`. */
  template: string;
  /** The scope that it requires; undefined if it is open. */
  scope: string | undefined;
  parameters: Parameter[];
  takesKey: boolean;
  body: Schema | undefined;
  /** Examples of its body; empty if it takes none. */
  examples: unknown[];
}

export const operationsIn = ({ paths }: OpenApi): Operation[] =>
  Object.entries(paths).flatMap(([template, item]) =>
    Object.entries(item).map(([method, described]) => operationOf(template, method.toUpperCase(), described)),
  );

const operationOf = (template: string, method: string, described: Described): Operation => {
  const { operationId, security, parameters = [], requestBody, responses } = described;
  const name = `${method} ${template}`;
  const scopes = security?.flatMap((it) => it['bearer'] ?? []) ?? [];
  if (security && scopes.length !== 1) throw new Error(`${name} names ${scopes.length} scopes`);
  const content = requestBody?.content['application/json'];
  return {
    ...{ operationId, name, method, template, scope: scopes[0], parameters, responses },
    takesKey: parameters.some((it) => it.name === 'Idempotency-Key'),
    body: content?.schema,
    examples: Object.values(content?.examples ?? {}).map(({ value }) => value),
  };
};

/** The path of a request, with the examples of the query parameters that it requires. */
export const pathOf = ({ template, parameters }: Operation, valueOf: (name: string) => string): string => {
  const required = parameters.filter((it) => it.in === 'query' && it.required);
  const query = new URLSearchParams(required.map((it): [string, string] => [it.name, String(it.schema.example)]));
  const path = template.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(valueOf(name)));
  return query.size === 0 ? path : `${path}?${query.toString()}`;
};
