import { connect, type Socket } from 'node:net';

const headEnd = Buffer.from('\r\n\r\n');
const lengthField = Buffer.from('content-length: ');
const lengthFieldInCapitals = Buffer.from('Content-Length: ');
const statusAt = 'HTTP/1.1 '.length;
const zero = 0x30;

const digitsAt = (bytes: Buffer, from: number): number => {
  let value = 0;
  for (let at = from; ; at += 1) {
    const digit = bytes[at]! - zero;
    if (!(digit >= 0 && digit <= 9)) return value;
    value = value * 10 + digit;
  }
};

const lengthIn = (head: Buffer): number => {
  const at = head.indexOf(lengthField);
  if (at >= 0) return digitsAt(head, at + lengthField.length);
  const inCapitalsAt = head.indexOf(lengthFieldInCapitals);
  if (inCapitalsAt < 0) throw new Error('the answer does not tell its content-length');
  return digitsAt(head, inCapitalsAt + lengthFieldInCapitals.length);
};

const retryField = Buffer.from('retry-after: ');

/** The seconds in the answer's `Retry-After`; undefined if it has none. */
export const retryAfterIn = (answer: Buffer): number | undefined => {
  const at = answer.indexOf(retryField);
  return at < 0 ? undefined : digitsAt(answer, at + retryField.length);
};

/** Receives the outcome of the current request: its status and the bytes of the answer, or what went wrong. */
type Outcome = (status: number | string, answer: Buffer) => void;

const nothing: Buffer = Buffer.alloc(0);

/**
 * One connection with at most one request in flight. It only parses status and length of an answer: a driver on the same
 * machine has to be cheap, or it measures itself.
 */
export class Caller {
  private socket: Socket;
  private received = nothing;
  private outcome: Outcome | undefined;
  private isClosed = false;

  private constructor(private readonly target: URL) {
    this.socket = this.opened();
  }

  static async open(target: string): Promise<Caller> {
    const caller = new Caller(new URL(target));
    await new Promise<void>((resolve, reject) => {
      caller.socket.once('connect', resolve);
      caller.socket.once('error', reject);
    });
    return caller;
  }

  send(request: Buffer, outcome: Outcome): void {
    this.outcome = outcome;
    this.socket.write(request);
  }

  close(): void {
    this.isClosed = true;
    this.socket.destroy();
  }

  private opened(): Socket {
    const socket = connect({ host: this.target.hostname, port: Number(this.target.port), noDelay: true });
    socket.on('data', (chunk) => this.read(chunk));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      if (this.isClosed) return;
      // Also after the server has closed an idle connection.
      this.received = nothing;
      this.socket = this.opened();
      if (this.outcome) this.end('connection lost', nothing);
    });
    return socket;
  }

  private read(chunk: Buffer): void {
    const received = this.received.length === 0 ? chunk : Buffer.concat([this.received, chunk]);
    const end = received.indexOf(headEnd);
    if (end < 0 || received.length < end + headEnd.length + lengthIn(received.subarray(0, end + 1))) {
      this.received = received;
      return;
    }
    this.received = nothing;
    this.end(digitsAt(received, statusAt), received);
  }

  private end(status: number | string, answer: Buffer): void {
    const outcome = this.outcome;
    this.outcome = undefined;
    outcome?.(status, answer);
  }
}
