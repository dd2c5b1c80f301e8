import { isDeepStrictEqual } from 'node:util';
import type { OpenAPIObject } from '@nestjs/swagger';

/** The document of one upstream, and the prefixes of the addresses that are taken from it. */
export interface DocumentPart {
  name: string;
  prefixes: readonly string[];
  document: OpenAPIObject;
}

type Named<Value> = Record<string, Value>;
type PathItem = OpenAPIObject['paths'][string];
type Tag = NonNullable<OpenAPIObject['tags']>[number];

const schemasAt = '#/components/schemas/';

/**
 * One document: the gateway's own, and from each upstream the addresses that are routed to it with the schemas these
 * need. It is ordered as the document of one process with all the modules would be.
 *
 * @throws Error when two documents call different schemas, or two operations, by one name
 */
export const mergeDocuments = (own: OpenAPIObject, parts: readonly DocumentPart[]): OpenAPIObject => {
  const paths = inOrder([own.paths, ...parts.map(routedPaths)].flatMap((it) => Object.entries(it)));
  refuseRepeatedOperationIds(paths);
  const documents = [...parts, { name: 'gateway', document: own }];
  const tags = tagsOf(own, parts);
  const { tags: _tags, paths: _paths, components, ...head } = own;
  return {
    ...head,
    ...(tags.length > 0 && { tags }),
    paths,
    components: { ...components, schemas: schemasFor(paths, allSchemas(documents)) },
  } as OpenAPIObject;
};

const inOrder = <Value>(entries: [string, Value][]): Named<Value> =>
  Object.fromEntries(entries.sort(([one], [other]) => (one < other ? -1 : 1)));

const routedPaths = ({ prefixes, document }: DocumentPart): Named<PathItem> =>
  Object.fromEntries(
    Object.entries(document.paths).filter(([path]) =>
      prefixes.some((prefix) => path === prefix || path.startsWith(`${prefix}/`)),
    ),
  );

/** The gateway's own tags have their places; those that only upstreams have come before them. */
const tagsOf = (own: OpenAPIObject, parts: readonly DocumentPart[]): Tag[] => {
  const ownTags = own.tags ?? [];
  const others = new Map<string, Tag>();
  for (const tag of parts.flatMap(({ document }) => document.tags ?? [])) {
    if (!ownTags.some(({ name }) => name === tag.name) && !others.has(tag.name)) others.set(tag.name, tag);
  }
  return [...others.values(), ...ownTags];
};

const refuseRepeatedOperationIds = (paths: Named<PathItem>): void => {
  const seen = new Map<string, string>();
  for (const [path, item] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(item)) {
      const { operationId } = operation as { operationId?: string };
      if (operationId === undefined) continue;
      const here = `${method.toUpperCase()} ${path}`;
      const there = seen.get(operationId);
      if (there) throw new Error(`${there} and ${here} are both called ${operationId}.`);
      seen.set(operationId, here);
    }
  }
};

const allSchemas = (documents: { name: string; document: OpenAPIObject }[]): Map<string, unknown> => {
  const found = new Map<string, { schema: unknown; from: string }>();
  for (const { name: from, document } of documents) {
    for (const [id, schema] of Object.entries(document.components?.schemas ?? {})) {
      const known = found.get(id);
      if (known && !isDeepStrictEqual(known.schema, schema)) {
        throw new Error(`${known.from} and ${from} have different schemas called ${id}: bring both to one version.`);
      }
      found.set(id, known ?? { schema, from });
    }
  }
  return new Map([...found].map(([id, { schema }]) => [id, schema]));
};

/** The schemas that the paths lead to, and those that these lead to. */
const schemasFor = (paths: Named<PathItem>, schemas: ReadonlyMap<string, unknown>): Named<unknown> => {
  const needed = new Map<string, unknown>();
  const waiting: unknown[] = [paths];
  while (waiting.length > 0) {
    for (const id of idsReferencedIn(waiting.pop())) {
      if (needed.has(id)) continue;
      if (!schemas.has(id)) throw new Error(`A document refers to the schema ${id}, which none of them has.`);
      needed.set(id, schemas.get(id));
      waiting.push(schemas.get(id));
    }
  }
  return inOrder([...needed]);
};

const idsReferencedIn = (part: unknown): string[] => {
  const ids: string[] = [];
  JSON.stringify(part, (key, value: unknown) => {
    if (key === '$ref' && typeof value === 'string') ids.push(value.replace(schemasAt, ''));
    return value;
  });
  return ids;
};
