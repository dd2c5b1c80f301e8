import { readFile } from 'node:fs/promises';
import { expect, it } from '@jest/globals';
import { upstreamsIn } from '../src/routes.js';

interface Operation {
  parameters?: { in: string; name: string }[];
}

it('knows at which addresses a POST is carried out once for each key: where the document says so', async () => {
  const document = JSON.parse(await readFile('docs/openapi.json', 'utf8')) as {
    paths: Record<string, Record<string, Operation>>;
  };
  const at = ['http://127.0.0.1:1'];
  const upstreams = upstreamsIn({
    ...{ ORDER_URL: at, INVENTORY_URL: at, CACHE_URL: at, PAYMENT_URL: at, SALES_URL: at, WEBHOOKS_URL: at },
  });
  const posts = Object.entries(document.paths).flatMap(([template, { post }]) => {
    const path = template.replaceAll(/\{\w+\}/g, 'some-id');
    const upstream = upstreams.find(({ prefixes }) => prefixes.some((it) => path === it || path.startsWith(`${it}/`)));
    if (!post || !upstream) return [];
    const takesKey = post.parameters?.some(({ in: where, name }) => where === 'header' && name === 'Idempotency-Key');
    return [{ template, said: takesKey === true, known: upstream.keyed?.test(path) === true }];
  });
  expect(posts.filter(({ said }) => said)).not.toEqual([]);
  expect(posts.filter(({ said, known }) => said !== known)).toEqual([]);
});
