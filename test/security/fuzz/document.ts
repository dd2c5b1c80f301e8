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

export interface FuzzedParameter {
  name: string;
  in: 'path' | 'query' | 'header';
  required?: boolean;
  schema: Schema;
}

/** An operation as the document describes it. */
export interface FuzzedOperation {
  name: string;
  method: string;
  template: string;
  scope: string | undefined;
  parameters: FuzzedParameter[];
  body: Schema | undefined;
  examples: unknown[];
  /** The statuses that the document lists for it. */
  statuses: ReadonlySet<number>;
}

interface Described {
  security?: Record<string, string[]>[];
  parameters?: FuzzedParameter[];
  requestBody?: { content: Record<string, { schema: Schema; examples?: Record<string, { value: unknown }> }> };
  responses: Record<string, unknown>;
}

/** The part of an OpenAPI document that is fuzzed. */
export interface ApiDocument {
  paths: Record<string, Record<string, Described>>;
  components: { schemas: Record<string, Schema> };
}

export const fuzzedOperations = ({ paths }: ApiDocument): FuzzedOperation[] =>
  Object.entries(paths).flatMap(([template, item]) =>
    Object.entries(item).map(([method, { security, parameters = [], requestBody, responses }]) => {
      const content = requestBody?.content['application/json'];
      return {
        name: `${method.toUpperCase()} ${template}`,
        method: method.toUpperCase(),
        template,
        scope: security?.flatMap((it) => it['bearer'] ?? [])[0],
        parameters,
        body: content?.schema,
        examples: Object.values(content?.examples ?? {}).map(({ value }) => value),
        statuses: new Set(Object.keys(responses).map(Number)),
      };
    }),
  );
