/** A server-sent event (WHATWG HTML, 9.2). */
export interface StreamedEvent {
  id: string;
  event: string;
  data: string;
}

const messageOf = (text: string): StreamedEvent | undefined => {
  const fields = text.split('\n').filter((line) => !line.startsWith(':'));
  if (fields.length === 0) return undefined;
  const field = (name: string): string => fields.find((it) => it.startsWith(`${name}: `))!.slice(name.length + 2);
  return { id: field('id'), event: field('event'), data: field('data') };
};

/** A stream of server-sent events as a client reads it; ends when the server ends it. */
export class EventStream {
  private readonly messages: AsyncGenerator<StreamedEvent, void>;

  private constructor(
    readonly response: Response,
    private readonly aborted: AbortController,
  ) {
    this.messages = this.read();
  }

  /** @param headers in addition to `Accept` */
  static async open(url: string, headers: Record<string, string> = {}): Promise<EventStream> {
    const aborted = new AbortController();
    const response = await fetch(url, { headers: { accept: 'text/event-stream', ...headers }, signal: aborted.signal });
    return new EventStream(response, aborted);
  }

  /** The next event that matches. */
  async until(fits: (event: StreamedEvent) => boolean): Promise<StreamedEvent> {
    for (;;) {
      const { value, done } = await this.messages.next();
      if (done) throw new Error('the stream ended before');
      if (fits(value)) return value;
    }
  }

  /** The next `count` events. */
  async take(count: number): Promise<StreamedEvent[]> {
    const taken: StreamedEvent[] = [];
    while (taken.length < count) taken.push(await this.until(() => true));
    return taken;
  }

  /** Resolves when the server has ended the stream, in whatever way. */
  async ended(): Promise<void> {
    try {
      for await (const _ of this.messages);
    } catch {
      // The connection was cut instead.
    }
  }

  close(): void {
    this.aborted.abort();
  }

  private async *read(): AsyncGenerator<StreamedEvent, void> {
    let text = '';
    const decoder = new TextDecoder();
    for await (const bytes of this.response.body!) {
      text += decoder.decode(bytes as Uint8Array, { stream: true });
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const message = messageOf(text.slice(0, end));
        text = text.slice(end + 2);
        if (message) yield message;
      }
    }
  }
}
