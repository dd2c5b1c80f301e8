import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { z } from 'zod';

/** The subset of the Compose Specification that we use. Anything else, such as a misspelled key, is refused. */
const duration = z.string().regex(/^(?:\d+(?:ms|s|m|h))+$/);
const serviceSchema = z.strictObject({
  image: z.string().regex(/^[a-z0-9./-]+:[a-z0-9.-]+$/, 'must name its version'),
  build: z.strictObject({ context: z.string(), dockerfile: z.string() }).optional(),
  command: z.array(z.string()).optional(),
  environment: z.record(z.string().regex(/^[A-Z][A-Z0-9_]*$/), z.string()).optional(),
  ports: z.array(z.string().regex(/^(?:[\d.]+:)?\d+(?:-\d+)?:\d+$/)).optional(),
  volumes: z.array(z.string().regex(/^(?:[a-z][a-z0-9-]*:\/\S+|\.\/\S+:\/\S+:ro)$/)).optional(),
  depends_on: z.record(z.string(), z.strictObject({ condition: z.literal('service_healthy') })).optional(),
  healthcheck: z
    .strictObject({
      test: z.tuple([z.enum(['CMD', 'CMD-SHELL'])], z.string()),
      interval: duration,
      timeout: duration,
      retries: z.int().positive(),
    })
    .optional(),
  restart: z.literal('unless-stopped'),
  stop_grace_period: duration.optional(),
  read_only: z.boolean().optional(),
  cap_drop: z.array(z.literal('ALL')).optional(),
  security_opt: z.array(z.literal('no-new-privileges:true')).optional(),
});
const composeSchema = z.strictObject({
  name: z.string().regex(/^[a-z0-9][a-z0-9_-]*$/),
  services: z.record(z.string(), serviceSchema),
  volumes: z.record(z.string(), z.null()),
});
export type Compose = z.output<typeof composeSchema>;
export type Service = z.output<typeof serviceSchema>;

/** Replaces `${NAME:-value}` by the variable of the shell, or by the value if it is not set. */
const interpolatedBy =
  (shell: Record<string, string>) =>
  (_key: unknown, value: unknown): unknown =>
    typeof value === 'string'
      ? value.replaceAll(/\$\{([A-Z_]+):-([^}]*)\}/g, (_all, name: string, standard: string) => shell[name] || standard)
      : value;

type Tree = Record<string, unknown>;
const isTree = (value: unknown): value is Tree => value !== null && typeof value === 'object' && !Array.isArray(value);

/** Overlays one file on the other: mappings are merged, everything else is replaced. */
const over = (base: Tree, upper: Tree): Tree => ({
  ...base,
  ...Object.fromEntries(
    Object.entries(upper).map(([key, value]) => [
      key,
      isTree(value) && isTree(base[key]) ? over(base[key], value) : value,
    ]),
  ),
});

/** A compose file with overlays and variables of the shell. @throws ZodError for anything that we do not use */
export const composeIn = (shell: Record<string, string>, ...files: string[]): Compose => {
  const trees = files.map(
    (file) => parse(readFileSync(`docker/${file}`, 'utf8'), interpolatedBy(shell), { merge: true }) as Tree,
  );
  const entries = Object.entries(trees.reduce(over)).filter(([key]) => !key.startsWith('x-'));
  return composeSchema.parse(Object.fromEntries(entries));
};

/** The same without variables of the shell. */
export const compose = (...files: string[]): Compose => composeIn({}, ...files);
