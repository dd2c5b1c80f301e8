/** A page of a list, as the API returns it. */
export interface Page<Item> {
  data: Item[];
  /** The cursor of the next page; null at the end. */
  next_cursor: string | null;
}

/** A list that is fetched page by page, as far as the caller reads it: `for await (const item of listing)`. */
export class Listing<Item, APage extends Page<Item> = Page<Item>> implements AsyncIterable<Item> {
  /** @param read fetches the page at a cursor; without a cursor, the first page of the query */
  constructor(private readonly read: (cursor?: string) => Promise<APage>) {}

  /** Only the first page of the query. */
  page(): Promise<APage> {
    return this.read();
  }

  /** All pages from the first one on, until the last or an empty one. */
  async *pages(): AsyncGenerator<APage, void, undefined> {
    let page = await this.read();
    while (page.data.length > 0) {
      yield page;
      if (page.next_cursor === null) return;
      page = await this.read(page.next_cursor);
    }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Item, void, undefined> {
    for await (const { data } of this.pages()) yield* data;
  }
}
