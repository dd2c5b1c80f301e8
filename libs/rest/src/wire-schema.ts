import { z } from 'zod';

/** A schema object of OpenAPI 3.1, which is JSON Schema 2020-12. */
export type JsonSchema = Record<string, unknown>;

export const componentsAt = '#/components/schemas/';

/** The schemas with an id that documented endpoints have used, by id. */
export const components = new Map<string, JsonSchema>();

/** Cached because every endpoint documents the same problem schema for each of its refusals. */
const converted = new WeakMap<z.ZodType, JsonSchema>();

/**
 * The JSON Schema of the wire format, for requests and replies: of a codec or a transform its input side. Schemas with an
 * id become references, and their definitions `components`.
 */
export const wireSchema = (schema: z.ZodType): JsonSchema => {
  const wire = converted.get(schema) ?? convert(schema);
  converted.set(schema, wire);
  return wire;
};

const convert = (schema: z.ZodType): JsonSchema => {
  const document = z.toJSONSchema(schema, {
    io: 'input',
    unrepresentable: 'any',
    // The format already says it; zod's pattern for a date-time alone has 300 characters.
    override: ({ jsonSchema }) => void (jsonSchema.format !== undefined && delete jsonSchema.pattern),
  });
  const { $schema: _, $defs, ...wire } = withComponentRefs(document);
  for (const [id, definition] of Object.entries(($defs ?? {}) as Record<string, JsonSchema>)) keep(id, definition);
  return wire;
};

const withComponentRefs = (document: object): JsonSchema =>
  JSON.parse(JSON.stringify(document), (key, value: unknown) =>
    key === '$ref' && typeof value === 'string' ? value.replace('#/$defs/', componentsAt) : value,
  ) as JsonSchema;

const keep = (id: string, definition: JsonSchema): void => {
  const kept = components.get(id);
  if (kept && JSON.stringify(kept) !== JSON.stringify(definition)) {
    throw new Error(`Two different schemas have the id ${id}; give one of them another in its .meta({id}).`);
  }
  components.set(id, definition);
};

/** The examples of a schema by name, or those of its union members if it has none of its own. */
export const examplesOf = (schema: z.ZodType): Record<string, { value: unknown }> | undefined => {
  const own = namedExamples(schema, 'example');
  const forms = schema instanceof z.ZodUnion ? (schema.options as z.ZodType[]) : [];
  const examples = own.length > 0 ? own : forms.flatMap((form) => namedExamples(form, form.meta()?.id ?? 'example'));
  return examples.length > 0 ? Object.fromEntries(examples) : undefined;
};

const namedExamples = (schema: z.ZodType, name: string): [string, { value: unknown }][] => {
  const examples = schema.meta()?.examples;
  if (!Array.isArray(examples)) return [];
  return examples.map((value: unknown, index) => [index === 0 ? name : `${name}-${index + 1}`, { value }]);
};
