import { JsonSocket, type TcpSocket } from '@nestjs/microservices';
import { frameOf, packetIn, type Packet } from './frames.js';

/** After this long without traffic, TCP keep-alive probes whether the other side still exists. */
export const keepAliveMs = 10_000;

/** Sent by a server that is about to stop: it answers the requests it has received; new ones must go to another instance. */
export const drainNotice = { id: 'draining', isDisposed: true } as const;

export const isDrainNotice = (packet: unknown): boolean =>
  typeof packet === 'object' && packet !== null && 'id' in packet && packet.id === drainNotice.id;

/** Pattern of readiness probes; an instance that is not ready answers with a contract error. */
export const probePattern = 'probe';

const readAheadCharacters = 1_048_576;
/** For operators who confused two ports: it is logged at both ends. */
const otherProtocol =
  'the other side speaks another protocol: messages have their own port (…_LISTEN), which is not that of REST (PORT)';

const isDigit = (character: number | undefined): boolean =>
  character === undefined || (character >= 0x30 && character <= 0x39);

/** Beyond this many characters, output is not put off until the end of the turn, so that both sides work in parallel. */
const mostUnsent = 4_096;

/**
 * Limit of Nest's buffer for one connection. In Nest's own form the body is a JSON string inside JSON, where quotes and
 * backslashes take two characters; the buffer also holds data that arrived after a message.
 */
const frameCharacters = (maxBytes: number): number => 2 * maxBytes + readAheadCharacters;

/**
 * Nest's socket, but with frames (the body behind its packet), and with everything that is sent in one turn of the event
 * loop in one write: each write is a system call, which costs as much as the rest of a small message. Callers that use
 * Nest's own form are answered in that form.
 */
export class FrameSocket extends JsonSocket {
  private readonly asks: boolean;
  private unsent = '';

  /** @param speaksFrames true for clients, whose server understands frames; a server learns it from the first frame */
  constructor(
    socket: TcpSocket['socket'],
    maxBytes: number,
    private speaksFrames: boolean,
  ) {
    super(socket, { maxBufferSize: frameCharacters(maxBytes) });
    this.asks = speaksFrames;
  }

  protected override handleSend(packet: Packet, callback?: (error?: unknown) => void): void {
    if (!this.speaksFrames) return super.handleSend(packet, callback);
    const isFirst = this.unsent === '';
    this.unsent += frameOf(packet);
    if (callback || this.unsent.length > mostUnsent) this.flush(callback);
    else if (isFirst) process.nextTick(() => this.flush());
  }

  override end(): this {
    this.flush();
    return super.end();
  }

  private flush(callback?: (error?: unknown) => void): void {
    const text = this.unsent;
    this.unsent = '';
    if (text === '' || this['isClosed']) return callback?.();
    // The same checks as in Nest's `handleSend`. The asking side does not stop reading, though: if both sides waited for the
    // other one to read, they would deadlock.
    if (!this.socket.write(text, callback) && !this.asks) this['applyBackpressure']();
    this['assertSendBufferWithinLimit']();
  }

  /** For a socket that reads into a buffer of its own instead of emitting 'data'. */
  receive(data: Buffer): void {
    this['onData'](data);
  }

  /** Fails at once on data that does not begin with a length, because it never becomes a message. */
  protected override handleData(data: Buffer | string): void {
    const isBeginning = this['contentLength'] === null && this['buffer'] === '';
    if (isBeginning && !isDigit(Buffer.isBuffer(data) ? data[0] : data.charCodeAt(0))) {
      this['handleDataError'](new Error(otherProtocol), { destroy: true });
      return;
    }
    super.handleData(data);
  }

  protected override emitMessage(text: string): void {
    const packet = packetIn(text);
    if (!packet) return super.emitMessage(text);
    this.speaksFrames = true;
    this.socket.emit('message', packet);
  }
}
