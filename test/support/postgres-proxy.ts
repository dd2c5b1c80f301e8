import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { setTimeout } from 'node:timers/promises';

/**
 * Where a statement is when it is caught.
 *
 * - `before`: the app has sent it; Postgres has not received it, and never will if the app goes away.
 * - `sent`: Postgres has received all of it and carries it out, whatever happens to the app.
 * - `after`: Postgres has carried it out; the app has not received the answer.
 */
export type Moment = 'before' | 'sent' | 'after';

export interface Place {
  /** The name of the prepared statement, or the beginning of an unnamed one without values, such as `COMMIT`. */
  statement: string;
  moment: Moment;
  /** Restricts it to statements with matching values. */
  with?: (values: readonly string[]) => boolean;
  /** The statement before it on the same connection, if only that distinguishes it. */
  follows?: string;
}

/** The words in a value, which may be an array or a document. */
export const wordsOf = (value: string): string[] => value.match(/[\w-]+/g) ?? [];

/** Matches if the word is among the values. */
export const has =
  (word: string): NonNullable<Place['with']> =>
  (values) =>
    values.some((it) => wordsOf(it).includes(word));

/** A statement that was caught. Its connection is frozen until it is passed or cut. */
export interface Caught {
  statement: string;
  values: readonly string[];
  /** For `after`: what Postgres made of it. Outside of a transaction, carrying it out commits it. */
  outcome: 'committed' | 'in a transaction' | 'failed' | undefined;
  pass(): void;
  /** Ends the connection to the app without an answer. Postgres still carries out what it has received. */
  cut(): void;
}

interface Snare extends Place {
  /** How often the statement has passed so far. */
  seen: number;
  springsAt: (occurrence: number) => boolean;
  act: (caught: Caught) => void;
}

/** A statement, as it is sent. */
interface Sent {
  name: string;
  values: readonly string[];
}

/** Messages that the app sends together and that get one answer: everything up to a Sync, or a simple query. */
interface Exchange {
  statements: Sent[];
  bytes: Buffer;
  snares: Partial<Record<Moment, { snare: Snare; values: Caught['values'] }>>;
  /** Whether it may continue after it was caught as `sent`. */
  isLetGo?: Promise<boolean>;
  failed: boolean;
}

const caughtWithinMs = 60_000;

const code = { cancel: 80_877_102, ssl: 80_877_103, gss: 80_877_104 };

/** Cuts a stream into messages of protocol 3. */
class Messages {
  private rest: Buffer = Buffer.alloc(0);

  /** @param typed whether messages begin with the letter of their type, as all do but the first ones of a client */
  constructor(public typed: boolean) {}

  *in(chunk: Buffer): Generator<Buffer> {
    this.rest = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    for (;;) {
      const lengthAt = this.typed ? 1 : 0;
      if (this.rest.length < lengthAt + 4) return;
      const end = lengthAt + this.rest.readUInt32BE(lengthAt);
      if (this.rest.length < end) return;
      const message = this.rest.subarray(0, end);
      this.rest = this.rest.subarray(end);
      yield message;
    }
  }
}

const textAt = (message: Buffer, start: number): string => message.toString('utf8', start, message.indexOf(0, start));

/** The values of a Bind, which follow its names and the formats of the values. */
const valuesOf = (message: Buffer, start: number): string[] => {
  let at = start + 2 + 2 * message.readUInt16BE(start) + 2;
  return Array.from({ length: message.readUInt16BE(at - 2) }, () => {
    const length = Math.max(0, message.readInt32BE(at));
    at += 4 + length;
    return message.toString('utf8', at - length, at);
  });
};

/** The statement that a Bind or a Query is for. */
const statementOf = (message: Buffer): Sent | undefined => {
  const type = String.fromCharCode(message[0]!);
  if (type === 'Q') return { name: textAt(message, 5), values: [] };
  if (type !== 'B') return undefined;
  // The name of the portal comes first.
  const nameAt = message.indexOf(0, 5) + 1;
  const name = textAt(message, nameAt);
  return name === '' ? undefined : { name, values: valuesOf(message, message.indexOf(0, nameAt) + 1) };
};

const outcomeOf = ({ failed }: Exchange, transaction: string): Caught['outcome'] =>
  failed ? 'failed' : transaction === 'I' ? 'committed' : 'in a transaction';

/** One connection of the app, with a connection to Postgres of its own. */
class Line {
  private readonly fromApp = new Messages(false);
  private readonly fromServer = new Messages(true);
  private gathered: Buffer[] = [];
  private readonly outgoing: Exchange[] = [];
  /** Sent to Postgres and not answered yet, in this order. */
  private readonly awaited: Exchange[] = [];
  private readonly answers: Buffer[] = [];
  /** The part of the current answer that the app has not received yet. */
  private readonly unsaid: Buffer[] = [];
  /** The last statement that the app has sent. */
  private last = '';
  private isForwarding = false;
  private isAnswering = false;
  private isAskedForEncryption = false;
  private isEncrypted = false;
  private isOver = false;
  private readonly over = Promise.withResolvers<false>();

  constructor(
    private readonly app: Socket,
    private readonly server: Socket,
    private readonly proxy: PostgresProxy,
  ) {
    for (const socket of [app, server]) socket.setNoDelay(true).on('error', () => undefined);
    app.on('data', (chunk: Buffer) => this.takeFromApp(chunk));
    server.on('data', (chunk: Buffer) => this.takeFromServer(chunk));
    app.on('close', () => this.end());
    // The app still receives the last message of Postgres, such as why it ends the connection.
    server.on('close', () => this.app.end());
  }

  /** Ends both sides; Postgres finishes what it has received before it notices. */
  end(): void {
    if (this.isOver) return;
    this.isOver = true;
    this.over.resolve(false);
    this.app.resetAndDestroy();
    this.server.end();
  }

  destroy(): void {
    this.end();
    this.server.destroy();
  }

  private takeFromApp(chunk: Buffer): void {
    if (this.isEncrypted) return void this.server.write(chunk);
    for (const message of this.fromApp.in(chunk)) {
      if (this.fromApp.typed) this.gather(message);
      else this.begin(message);
    }
  }

  /** The first messages: a request for encryption or cancellation, or the start of a session. */
  private begin(message: Buffer): void {
    const asked = message.readUInt32BE(4);
    if (asked === code.ssl || asked === code.gss) this.isAskedForEncryption = true;
    else if (asked !== code.cancel) {
      this.fromApp.typed = true;
      // The answer to it is everything up to the first ReadyForQuery.
      this.awaited.push({ statements: [], bytes: message, snares: {}, failed: false });
    }
    this.server.write(message);
  }

  private gather(message: Buffer): void {
    const type = String.fromCharCode(message[0]!);
    this.gathered.push(message);
    if ('QSF'.includes(type)) {
      const messages = this.gathered.splice(0);
      const statements = messages.flatMap((it) => statementOf(it) ?? []);
      this.outgoing.push({ statements, bytes: Buffer.concat(messages), snares: {}, failed: false });
      void this.forward();
    } else if (!'PBDEC'.includes(type)) {
      // Passwords, Terminate, Flush, copied data: no Sync follows these.
      this.server.write(Buffer.concat(this.gathered.splice(0)));
    }
  }

  private async forward(): Promise<void> {
    if (this.isForwarding) return;
    this.isForwarding = true;
    for (let next = this.outgoing.shift(); next; next = this.outgoing.shift()) {
      if (this.proxy.delayMs > 0) await setTimeout(this.proxy.delayMs);
      this.proxy.setSnares(next, this.last);
      this.last = next.statements.at(-1)?.name ?? this.last;
      if (this.isOver || !(await this.isLetGo(next, 'before'))) return;
      this.awaited.push(next);
      this.server.write(next.bytes);
      next.isLetGo = this.isLetGo(next, 'sent');
      if (!(await next.isLetGo)) return;
    }
    this.isForwarding = false;
  }

  private takeFromServer(chunk: Buffer): void {
    if (this.isOver) return;
    if (this.isEncrypted) return void this.app.write(chunk);
    if (this.isAskedForEncryption) {
      this.isAskedForEncryption = false;
      this.isEncrypted = chunk.toString('latin1', 0, 1) !== 'N';
      return void this.app.write(chunk);
    }
    this.answers.push(...this.fromServer.in(chunk));
    void this.answer();
  }

  private async answer(): Promise<void> {
    if (this.isAnswering) return;
    this.isAnswering = true;
    for (let next = this.answers.shift(); next; next = this.answers.shift()) {
      this.unsaid.push(next);
      const type = String.fromCharCode(next[0]!);
      const exchange = this.awaited[0];
      if (exchange && type === 'E') exchange.failed = true;
      if (exchange && type === 'Z') {
        this.awaited.shift();
        if (!(await (exchange.isLetGo ?? true))) return;
        if (!(await this.isLetGo(exchange, 'after', String.fromCharCode(next[5]!)))) return;
      } else if (exchange?.snares.sent ?? exchange?.snares.after) continue;
      if (type === 'Z' || this.answers.length === 0) this.app.write(Buffer.concat(this.unsaid.splice(0)));
    }
    this.isAnswering = false;
  }

  /** @returns whether to go on: not if the line was cut, by us or by the app */
  private async isLetGo(exchange: Exchange, moment: Moment, transaction?: string): Promise<boolean> {
    const set = exchange.snares[moment];
    if (!set || this.isOver) return !this.isOver;
    const { promise, resolve } = Promise.withResolvers<true>();
    set.snare.act({
      statement: set.snare.statement,
      values: set.values,
      outcome: transaction === undefined ? undefined : outcomeOf(exchange, transaction),
      pass: () => resolve(true),
      cut: () => this.end(),
    });
    return Promise.race([promise, this.over.promise]);
  }
}

/**
 * A proxy between an app and Postgres that catches statements by the names of prepared statements, so that the app
 * contains no fault injection. Each of the app's hot statements is a transaction of its own, so one that is caught
 * `after` is committed. Encrypted connections are passed on unread.
 */
export class PostgresProxy {
  /** By how much every statement is delayed. */
  delayMs = 0;
  private isRefusing = false;
  private readonly lines = new Set<Line>();
  private snares: Snare[] = [];

  private constructor(
    private readonly server: Server,
    /** The URL of the database through the proxy. */
    readonly url: string,
  ) {}

  /** @param target the URL of a database */
  static async start(target: string): Promise<PostgresProxy> {
    const { hostname, port } = new URL(target);
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const url = new URL(target);
    url.hostname = '127.0.0.1';
    url.port = String((server.address() as AddressInfo).port);
    const proxy = new PostgresProxy(server, url.href);
    server.on('connection', (app) => {
      if (proxy.isRefusing) return void app.on('error', () => undefined).resetAndDestroy();
      const postgres = connect({ host: hostname, port: Number(port || 5432) });
      const line = new Line(app, postgres, proxy);
      proxy.lines.add(line);
      // The connection to Postgres ends last: it may carry out what the app sent long after the app has gone.
      postgres.once('close', () => proxy.lines.delete(line));
    });
    return proxy;
  }

  /** Catches the statement once, when it passes for the n-th time from now on. Rejects if that takes too long. */
  next(place: Place, occurrence = 1): Promise<Caught> {
    const { promise, resolve, reject } = Promise.withResolvers<Caught>();
    const forget = this.set({ ...place, seen: 0, springsAt: (it) => it === occurrence, act: resolve });
    const complaint = new Error(`${place.statement} was not caught, which was to happen at occurrence ${occurrence}`);
    const late = globalThis.setTimeout(reject, caughtWithinMs, complaint);
    return promise.finally(() => {
      clearTimeout(late);
      forget();
    });
  }

  /** Catches every n-th of these statements. @returns a function that ends this */
  each(place: Place, every: number, act: (caught: Caught) => void): () => void {
    return this.set({ ...place, seen: 0, springsAt: (it) => it % every === 0, act });
  }

  /** Ends all connections abruptly, as a network failure does. */
  cutAll(): void {
    for (const line of this.lines) line.end();
  }

  /** Sets whether new connections are refused. */
  refuse(isRefusing = true): void {
    this.isRefusing = isRefusing;
  }

  async stop(): Promise<void> {
    const closed = once(this.server, 'close');
    this.server.close();
    for (const line of this.lines) line.destroy();
    await closed;
  }

  /**
   * Decides where an exchange will be caught. Its line calls this once for each.
   *
   * @param last the statement before it on its line
   */
  setSnares({ statements, snares }: Exchange, last: string): void {
    for (const snare of this.snares) {
      const { statement, moment, follows = last } = snare;
      const caught = statements.find(
        ({ name, values }) =>
          (name === statement || name.startsWith(`${statement} `)) &&
          (snare.with?.(values) ?? true) &&
          follows === last,
      );
      if (!caught) continue;
      snare.seen += 1;
      if (snare.springsAt(snare.seen)) snares[moment] ??= { snare, values: caught.values };
    }
  }

  private set(snare: Snare): () => void {
    this.snares.push(snare);
    return () => {
      this.snares = this.snares.filter((it) => it !== snare);
    };
  }
}
