import type { INestApplication } from '@nestjs/common';
import { SwaggerModule, type OpenAPIObject } from '@nestjs/swagger';
import type { FastifyInstance } from 'fastify';
import { securityScheme } from './endpoint.js';
import { components, componentsAt, type JsonSchema } from './wire-schema.js';

export interface DocumentOptions {
  title: string;
  description: string;
  /** In display order. */
  tags?: { name: string; description?: string }[];
  servers?: { url: string; description?: string }[];
}

/** That of the API, which every app serves a part of. */
const version = '1';

type Paths = OpenAPIObject['paths'];
const methods = ['get', 'put', 'post', 'patch', 'delete'] as const;

/**
 * The OpenAPI 3.1 document of an app, from its `@Endpoint`s: ordered by tag, and within a tag by the order in which
 * controllers declare their methods, so that the author decides what a reader sees first.
 *
 * @throws Error if two operations have the same id, or a reference cannot be resolved
 */
export const openApiDocument = (app: INestApplication, options: DocumentOptions): OpenAPIObject => {
  const { title, description, tags, servers } = options;
  const head = { openapi: '3.1.0', info: { title, description, version } };
  const { paths, components: scanned } = SwaggerModule.createDocument(app, { ...head, components: {} });
  refuseRepeatedOperationIds(paths);
  const schemaOf = (id: string): JsonSchema => {
    const schema = components.get(id) ?? (scanned?.schemas?.[id] as JsonSchema | undefined);
    if (!schema) throw new Error(`The document refers to the schema ${id}, which does not exist.`);
    return schema;
  };
  return {
    ...head,
    ...(servers && { servers }),
    ...(tags && { tags }),
    paths: inOrderOfTags(Object.entries(paths), tags),
    components: { schemas: inOrder(schemasFor(paths, schemaOf)), securitySchemes },
  };
};

/** The scope that an operation needs is in its `security`, unless it is open. */
const securitySchemes = {
  [securityScheme]: {
    type: 'http',
    scheme: 'bearer',
    description:
      'A key from `POST /keys`, or a token of the OpenID Connect issuer. If neither is configured, no ' +
      'authentication is needed.',
  },
} as const;

/** As an object whose keys are sorted. */
export const inOrder = <Value>(values: ReadonlyMap<string, Value>): Record<string, Value> =>
  Object.fromEntries([...values].sort(([one], [other]) => (one < other ? -1 : 1)));

/** Orders paths by their first tag, those without a known tag last; paths of the same tag keep their order. */
export const inOrderOfTags = (
  paths: readonly (readonly [string, Paths[string]])[],
  tags: readonly { name: string }[] = [],
): Paths => {
  const places = new Map(tags.map(({ name }, place) => [name, place]));
  const placeOf = (item: Paths[string]): number => {
    const [tag] = methods.flatMap((method) => item[method]?.tags ?? []);
    return places.get(tag ?? '') ?? places.size;
  };
  return Object.fromEntries([...paths].sort(([, one], [, other]) => placeOf(one) - placeOf(other)));
};

/** The document without unused tags, which Swagger UI would show as empty sections. */
export const withUsedTags = (document: OpenAPIObject): OpenAPIObject => {
  const used = new Set(Object.values(document.paths).flatMap((item) => methods.flatMap((it) => item[it]?.tags ?? [])));
  return { ...document, ...(document.tags && { tags: document.tags.filter(({ name }) => used.has(name)) }) };
};

const refuseRepeatedOperationIds = (paths: Paths): void => {
  const seen = new Map<string, string>();
  for (const [path, item] of Object.entries(paths)) {
    for (const method of methods) {
      const id = item[method]?.operationId;
      if (id === undefined) continue;
      const here = `${method.toUpperCase()} ${path}`;
      const there = seen.get(id);
      if (there) throw new Error(`${there} and ${here} are both called ${id}; give one of them another operationId.`);
      seen.set(id, here);
    }
  }
};

/** The schemas that the paths refer to, directly or through other schemas, by id. */
export const schemasFor = <Schema>(paths: Paths, schemaOf: (id: string) => Schema): Map<string, Schema> => {
  const needed = new Map<string, Schema>();
  const waiting: unknown[] = [paths];
  while (waiting.length > 0) {
    for (const id of idsReferencedIn(waiting.pop())) {
      if (needed.has(id)) continue;
      const schema = schemaOf(id);
      needed.set(id, schema);
      waiting.push(schema);
    }
  }
  return needed;
};

/** The ids of the schemas that a part of a document refers to. */
export const idsReferencedIn = (part: unknown): string[] => {
  const ids: string[] = [];
  JSON.stringify(part, (key, value: unknown) => {
    if (key === '$ref' && typeof value === 'string') ids.push(value.replace(componentsAt, ''));
    return value;
  });
  return ids;
};

/** Derives the document to show now from the app's own. */
export type CurrentDocument = (own: OpenAPIObject) => Promise<OpenAPIObject>;

/**
 * Serves Swagger UI at `/docs` and the document at `/openapi.json`: the given one, or the result of `current`, which is
 * called on every request. `/` redirects to Swagger UI. Call this before the app is initialised.
 */
export const mountDocs = (app: INestApplication, document: OpenAPIObject, current?: CurrentDocument): void => {
  SwaggerModule.setup('docs', app, document, {
    jsonDocumentUrl: 'openapi.json',
    raw: ['json'],
    customSiteTitle: document.info.title,
    ...(current && { patchDocumentOnRequest: () => current(document) }),
    swaggerOptions: {
      // Swagger UI would load a badge from another host.
      validatorUrl: null,
      displayRequestDuration: true,
      tryItOutEnabled: true,
    },
  });
  const fastify: FastifyInstance = app.getHttpAdapter().getInstance();
  fastify.get('/', (_request, reply) => reply.redirect('/docs', 302));
};
