/** A page of a list, as the API answers it. */
export interface Page<Item> {
  data: Item[];
  /** Where the next page begins; null at the end. */
  next_cursor: string | null;
}

/** A list that is read page by page, as far as one goes on: `for await (const item of listing)`. */
export class Listing<Item, APage extends Page<Item> = Page<Item>> implements AsyncIterable<Item> {
  /** @param read the page at a cursor; without one, where the query begins */
  constructor(private readonly read: (cursor?: string) => Promise<APage>) {}

  /** The page where the query begins, alone. */
  page(): Promise<APage> {
    return this.read();
  }

  /** Every page from there on that has something in it. */
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
