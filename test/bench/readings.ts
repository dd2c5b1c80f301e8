import type { Reading } from './measure.js';

const pageSize = 50;

export const readingNames = { byId: 'read by id', firstPage: 'list, first page', deepPage: 'list, deep page' } as const;

/** The address of the page this many orders deep, found by following cursors as a caller does. */
const deepPageAt = async (url: string, depth: number): Promise<string> => {
  let path = `/orders?limit=${pageSize}`;
  for (let seen = 0; seen < depth; seen += pageSize) {
    const answer = await fetch(url + path);
    const { next_cursor: cursor } = (await answer.json()) as { next_cursor: string | null };
    if (cursor === null) throw new Error(`the list ends after ${seen} orders; a page ${depth} deep was to be read`);
    path = `/orders?limit=${pageSize}&cursor=${encodeURIComponent(cursor)}`;
  }
  return path;
};

/** The kinds of reading orders. */
export const readingsOf = async (url: string, orderIds: readonly string[], depth: number): Promise<Reading[]> => [
  { name: readingNames.byId, paths: orderIds.map((it) => `/orders/${it}`) },
  { name: readingNames.firstPage, paths: [`/orders?limit=${pageSize}`] },
  { name: readingNames.deepPage, paths: [await deepPageAt(url, depth)] },
];
