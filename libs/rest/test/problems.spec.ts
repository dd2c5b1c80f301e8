import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { fullHeader } from '#rest';
import { problemOf } from '../src/problems.js';
import { startApp, type AppUnderTest } from './app-under-test.js';

let here: AppUnderTest;
beforeAll(async () => void (here = await startApp()));
afterAll(() => here.app.close());

const get = async (path: string) => {
  const response = await fetch(`${here.url}${path}`);
  return { response, body: (await response.json()) as Record<string, unknown> };
};

describe('an error', () => {
  it('with a code becomes a problem document with its detail and extensions', async () => {
    const { response, body } = await get('/trials/refuses');
    expect(response.status).toBe(409);
    expect(response.headers.get('content-type')).toBe('application/problem+json; charset=utf-8');
    expect(body).toEqual({
      type: '/problems/out-of-stock',
      title: 'There is not enough stock',
      status: 409,
      code: 'out-of-stock',
      detail: 'There are 2 left.',
      shortages: [{ product_id: 'mug' }],
    });
  });

  it('keeps its own members, whatever the names of its extensions are', () => {
    const { status, code } = problemOf('not-found', 'Gone.', { status: 200, code: 'fine', left: 2 });
    expect([status, code]).toEqual([404, 'not-found']);
  });

  it('that is temporary is answered with Retry-After, and its cause is only logged', async () => {
    const { response, body } = await get('/trials/unavailable');
    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1']);
    expect(response.headers.has(fullHeader)).toBe(false);
    expect(JSON.stringify(body)).not.toContain('10.0.0.7');
    expect(here.log.join('\n')).toContain('ECONNREFUSED 10.0.0.7');
  });

  it('about an exceeded deadline is marked as overload, not as an instance that lacks a dependency', async () => {
    const { response } = await get('/trials/too-late');
    expect([response.status, response.headers.get(fullHeader)]).toEqual([503, 'requests']);
  });

  it('that is unexpected is logged in full and answered without details', async () => {
    const { response, body } = await get('/trials/breaks?token=s3cret');
    expect([response.status, body.code]).toEqual([500, 'internal']);
    expect(JSON.stringify(body)).not.toMatch(/hunter2|stack|lay behind/);
    const log = here.log.join('\n');
    expect(log).toMatch(/GET \/trials\/breaks failed .*hunter2/);
    expect(log).toContain('app-under-test.ts');
    expect(log).toContain('caused by: Error: what lay behind it');
    expect(log).not.toContain('s3cret');
  });

  it('that is not an Error is still answered with 500', async () => {
    expect((await get('/trials/breaks-oddly')).body).toMatchObject({ status: 500, code: 'internal' });
  });

  it('of Nest that has no code here is answered as invalid-request', async () => {
    const { response, body } = await get('/trials/forbids');
    expect(response.status).toBe(400);
    expect(body).toMatchObject({ status: 400, code: 'invalid-request', detail: 'Not for you.' });
  });
});

describe('a problem type', () => {
  it('is explained at its address', async () => {
    const { body } = await get('/problems/invalid-cursor');
    expect(body).toMatchObject({ code: 'invalid-cursor', status: 400, advice: expect.any(String) });
  });

  it('that does not exist is answered with 404', async () => {
    for (const code of ['nonsense', 'toString', '__proto__']) {
      expect((await get(`/problems/${code}`)).body).toMatchObject({ status: 404, code: 'not-found' });
    }
  });
});
