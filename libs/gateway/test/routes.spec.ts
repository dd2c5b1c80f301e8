import { readFile } from 'node:fs/promises';
import { expect, it } from '@jest/globals';
import { ownPrefixes, upstreamsIn } from '../src/routes.js';

interface Operation {
  parameters?: { in: string; name: string }[];
}

const readDocument = async () =>
  JSON.parse(await readFile('docs/openapi.json', 'utf8')) as { paths: Record<string, Record<string, Operation>> };

const at = ['http://127.0.0.1:1'];
const upstreams = upstreamsIn({
  ...{ ORDER_URL: at, INVENTORY_URL: at, CACHE_URL: at, PAYMENT_URL: at, SALES_URL: at, WEBHOOKS_URL: at },
});
const isBelow = (path: string, prefix: string): boolean => path === prefix || path.startsWith(`${prefix}/`);

it('every path of the document belongs to a service or the gateway, except those of each instance', async () => {
  const paths = Object.keys((await readDocument()).paths);
  const prefixes = [...upstreams.flatMap((it) => it.prefixes), ...ownPrefixes];
  const ofEach = paths.filter((path) => !prefixes.some((it) => isBelow(path, it)));
  expect(ofEach.toSorted()).toEqual(['/admin/log-level', '/metrics']);
  // Every prefix has a route; the document does not describe itself.
  const unused = prefixes.filter((prefix) => !paths.some((path) => isBelow(path, prefix)));
  expect(unused).toEqual(['/docs', '/openapi.json']);
});

it('the routes where a POST takes an idempotency key are those that the document declares', async () => {
  const posts = Object.entries((await readDocument()).paths).flatMap(([template, { post }]) => {
    const path = template.replaceAll(/\{\w+\}/g, 'some-id');
    const upstream = upstreams.find(({ prefixes }) => prefixes.some((it) => isBelow(path, it)));
    if (!post || !upstream) return [];
    const takesKey = post.parameters?.some(({ in: where, name }) => where === 'header' && name === 'Idempotency-Key');
    return [{ template, said: takesKey === true, known: upstream.keyed?.test(path) === true }];
  });
  expect(posts.filter(({ said }) => said)).not.toEqual([]);
  expect(posts.filter(({ said, known }) => said !== known)).toEqual([]);
});
