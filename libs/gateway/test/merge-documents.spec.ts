import { describe, expect, it } from '@jest/globals';
import type { OpenAPIObject } from '@nestjs/swagger';
import { mergeDocuments as merge, type DocumentPart } from '../src/merge-documents.js';

const mergeDocuments = (...from: Parameters<typeof merge>): OpenAPIObject => merge(...from).document;

const operation = (operationId: string, schema?: string, tag?: string): object => ({
  operationId,
  ...(tag && { tags: [tag] }),
  responses: schema ? { 200: { content: { json: { schema: { $ref: `#/components/schemas/${schema}` } } } } } : {},
});

const documentOf = (
  paths: Record<string, object>,
  schemas: Record<string, object>,
  more: object = {},
): OpenAPIObject => ({
  openapi: '3.1.0',
  info: { title: 't', description: 'd', version: '1' },
  ...more,
  paths,
  components: { schemas },
});

const problem = { type: 'object', title: 'Problem' };
const tags = [{ name: 'orders' }, { name: 'cache' }, { name: 'health' }];
const own = documentOf(
  { '/health/live': { get: operation('live', 'Problem', 'health') } },
  { Problem: problem },
  { tags },
);

const order: DocumentPart = {
  name: 'order',
  prefixes: ['/orders', '/order'],
  document: documentOf(
    {
      '/health/live': { get: operation('live', 'Problem') },
      '/orders/{id}': { get: operation('getOrder', 'Order', 'orders') },
      '/orders': { get: operation('listOrders', 'Order', 'orders'), post: operation('placeOrder', 'Problem') },
      '/order': { post: operation('placeOrderByAlias', undefined, 'orders') },
      '/internal': { get: operation('internal', 'Internal') },
    },
    {
      Problem: { title: 'Problem', type: 'object' },
      Order: { properties: { line: { $ref: '#/components/schemas/Line' } } },
      Line: { type: 'object' },
      Internal: { type: 'object' },
    },
  ),
};
const cache: DocumentPart = {
  name: 'cache',
  prefixes: ['/cache'],
  document: documentOf(
    { '/cache': { get: operation('getCacheEntry', 'CacheValue', 'cache') } },
    { CacheValue: { type: 'null' } },
  ),
};

describe('the merged document', () => {
  it('has the routed paths, those of the gateway and the schemas they need, in a fixed order', () => {
    const merged = mergeDocuments(own, [order, cache]);
    expect(Object.keys(merged)).toEqual(['openapi', 'info', 'tags', 'paths', 'components']);
    expect(Object.keys(merged.paths)).toEqual(['/orders/{id}', '/orders', '/order', '/cache', '/health/live']);
    expect(Object.keys(merged.components!.schemas!)).toEqual(['CacheValue', 'Line', 'Order', 'Problem']);
  });

  it('does not depend on the order of the services', () => {
    expect(JSON.stringify(mergeDocuments(own, [cache, order]))).toBe(
      JSON.stringify(mergeDocuments(own, [order, cache])),
    );
  });

  it('of no parts is that of the gateway, and no input is changed', () => {
    const before = JSON.stringify([own, order]);
    expect(mergeDocuments(own, [])).toEqual(own);
    mergeDocuments(own, [order]);
    expect(JSON.stringify([own, order])).toBe(before);
  });

  it('keeps the tags of the gateway, and puts others before them', () => {
    const tagged = documentOf({}, {}, { tags: [{ name: 'health', description: 'own' }] });
    const others = [{ name: 'cache' }, { name: 'health', description: 'other' }];
    const part = { ...cache, document: { ...cache.document, tags: others } };
    expect(mergeDocuments(tagged, [part]).tags).toEqual([{ name: 'cache' }, { name: 'health', description: 'own' }]);
    expect(Object.keys(mergeDocuments(tagged, [part]))).toEqual(['openapi', 'info', 'tags', 'paths', 'components']);
  });

  it('renames different schemas of the same name, and updates the references to them', () => {
    const schemas = {
      CacheValue: { properties: { order: { $ref: '#/components/schemas/Order' } } },
      Order: { properties: { line: { $ref: '#/components/schemas/Line' } } },
      Line: { type: 'string' },
    };
    const other = { ...cache, document: { ...cache.document, components: { schemas } } } as DocumentPart;
    const { document, renamed } = merge(own, [order, other]);
    expect(renamed.sort()).toEqual(['cache_Line', 'cache_Order']);
    expect(document.components!.schemas).toEqual({
      CacheValue: { properties: { order: { $ref: '#/components/schemas/cache_Order' } } },
      Line: { type: 'object' },
      Order: { properties: { line: { $ref: '#/components/schemas/Line' } } },
      Problem: problem,
      cache_Line: { type: 'string' },
      cache_Order: { properties: { line: { $ref: '#/components/schemas/cache_Line' } } },
    });
  });

  it('has equal recursive schemas once', () => {
    const schemas = {
      CacheValue: { $ref: '#/components/schemas/Tree' },
      Tree: { items: { $ref: '#/components/schemas/Tree' } },
    };
    const part = { ...cache, document: { ...cache.document, components: { schemas } } } as unknown as DocumentPart;
    const again = { ...part, name: 'sales', prefixes: ['/cache'] };
    expect(merge(own, [part, again]).document.components!.schemas).toEqual({ ...schemas, Problem: problem });
  });

  it('renames an operation whose id is taken', () => {
    const other = { ...cache, document: documentOf({ '/cache': { get: operation('getOrder') } }, {}) };
    const { document, renamed } = merge(own, [order, other]);
    expect(document.paths['/orders/{id}']!.get!.operationId).toBe('getOrder');
    expect(document.paths['/cache']!.get!.operationId).toBe('cache_getOrder');
    expect(renamed).toEqual(['cache_getOrder']);
  });

  it('is not created if a schema is missing', () => {
    const other = { ...cache, document: documentOf({ '/cache': { get: operation('get', 'Nothing') } }, {}) };
    expect(() => mergeDocuments(own, [other])).toThrow(/cache refers to the schema Nothing/);
  });
});
