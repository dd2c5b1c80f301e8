import { isDeepStrictEqual } from 'node:util';
import type { OpenAPIObject } from '@nestjs/swagger';
import { idsReferencedIn, inOrder, inOrderOfTags, schemasFor } from '#rest';

/** The document of one upstream, and the path prefixes that are taken from it. */
export interface DocumentPart {
  name: string;
  prefixes: readonly string[];
  document: OpenAPIObject;
}

export interface MergedDocuments {
  document: OpenAPIObject;
  /** New names, such as `cache_Problem`, of schemas and operations whose name was taken. */
  renamed: string[];
}

type Named<Value> = Record<string, Value>;
type PathItem = OpenAPIObject['paths'][string];
type Tag = NonNullable<OpenAPIObject['tags']>[number];

const schemasAt = '#/components/schemas/';

/**
 * Merges documents: the gateway's own, and from each upstream the paths that are routed to it with the schemas they need.
 * They are ordered as in the document of one process with all modules. Services of different versions may use one name for
 * different things: the first one keeps it, and the others are prefixed with the name of their service.
 *
 * @throws Error if a document refers to a schema that it does not have
 */
export const mergeDocuments = (own: OpenAPIObject, parts: readonly DocumentPart[]): MergedDocuments => {
  const names = new Names();
  names.take('gateway', own.paths, own);
  for (const part of parts) names.take(part.name, routedPaths(part), part.document);
  const tags = tagsOf(own, parts);
  const { tags: _tags, paths: _paths, components, ...head } = own;
  const document = {
    ...head,
    ...(tags.length > 0 && { tags }),
    paths: inOrderOfTags([...names.paths], tags),
    components: { ...components, schemas: inOrder(names.schemas) },
  } as OpenAPIObject;
  return { document, renamed: names.renamed };
};

const routedPaths = ({ prefixes, document }: DocumentPart): Named<PathItem> =>
  Object.fromEntries(
    Object.entries(document.paths).filter(([path]) =>
      prefixes.some((prefix) => path === prefix || path.startsWith(`${prefix}/`)),
    ),
  );

/** The gateway's own tags keep their order; those of upstreams alone come before them. */
const tagsOf = (own: OpenAPIObject, parts: readonly DocumentPart[]): Tag[] => {
  const ownTags = own.tags ?? [];
  const others = new Map<string, Tag>();
  for (const tag of parts.flatMap(({ document }) => document.tags ?? [])) {
    if (!ownTags.some(({ name }) => name === tag.name) && !others.has(tag.name)) others.set(tag.name, tag);
  }
  return [...others.values(), ...ownTags];
};

/** Collects paths and schemas from the documents under unique names. */
class Names {
  readonly paths = new Map<string, PathItem>();
  readonly schemas = new Map<string, unknown>();
  readonly renamed: string[] = [];
  private readonly operationIds = new Set<string>();

  take(from: string, paths: Named<PathItem>, { components }: OpenAPIObject): void {
    const schemas: Named<unknown> = components?.schemas ?? {};
    const needed = schemasFor(paths, (id) => {
      if (!Object.hasOwn(schemas, id)) throw new Error(`${from} refers to the schema ${id}, which it does not have.`);
      return schemas[id];
    });
    const others = this.otherThanTaken(needed);
    const nameOf = (id: string) => (others.has(id) ? `${from}_${id}` : id);
    this.renamed.push(...[...others].map(nameOf));
    for (const [id, schema] of needed) this.schemas.set(nameOf(id), referringBy(nameOf, schema));
    for (const [path, item] of Object.entries(referringBy(nameOf, paths)))
      this.paths.set(path, this.withOwnIds(from, item));
  }

  /** Schemas to rename: their name is taken, and the content differs, directly or in a schema that they refer to. */
  private otherThanTaken(needed: ReadonlyMap<string, unknown>): Set<string> {
    const known = [...needed].filter(([id]) => this.schemas.has(id));
    const others = new Set<string>();
    for (let found = -1; found < others.size;) {
      found = others.size;
      for (const [id, schema] of known)
        if (!isDeepStrictEqual(schema, this.schemas.get(id)) || idsReferencedIn(schema).some((it) => others.has(it)))
          others.add(id);
    }
    return others;
  }

  private withOwnIds(from: string, item: PathItem): PathItem {
    return Object.fromEntries(
      Object.entries(item).map(([method, operation]) => {
        const { operationId } = operation as { operationId?: string };
        if (operationId === undefined) return [method, operation];
        const name = this.operationIds.has(operationId) ? `${from}_${operationId}` : operationId;
        if (name !== operationId) this.renamed.push(name);
        this.operationIds.add(name);
        return [method, { ...operation, operationId: name }];
      }),
    );
  }
}

const referringBy = <Part>(nameOf: (id: string) => string, part: Part): Part =>
  JSON.parse(
    JSON.stringify(part, (key, value: unknown) =>
      key === '$ref' && typeof value === 'string' ? schemasAt + nameOf(value.replace(schemasAt, '')) : value,
    ),
  ) as Part;
