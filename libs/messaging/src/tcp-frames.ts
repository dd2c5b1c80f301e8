import { JsonSocket, type JsonSocketOptions, type TcpSocket } from '@nestjs/microservices';
import { frameOf, packetIn, type Packet } from './frames.js';

/** After so long without a word, the system asks whether the other side is still there. */
export const keepAliveMs = 10_000;

/** Sent by a server that is about to stop. It answers what it has got; new requests belong elsewhere. */
export const drainNotice = { id: 'draining', isDisposed: true } as const;

export const isDrainNotice = (packet: unknown): boolean =>
  typeof packet === 'object' && packet !== null && 'id' in packet && packet.id === drainNotice.id;

/** What an instance is asked whether it can take requests: one that is not ready answers with an error of contracts. */
export const probePattern = 'probe';

const readAheadCharacters = 1_048_576;
/** For who has mixed up two ports: it is logged at both ends. */
const otherProtocol =
  'the other side speaks another protocol: messages have their own port (…_LISTEN), which is not that of REST (PORT)';

const isDigit = (character: number | undefined): boolean =>
  character === undefined || (character >= 0x30 && character <= 0x39);

/** What is not put off until the end of the turn, in characters: by then both sides are at work, and not each in turn. */
const mostUnsent = 4_096;

/**
 * The bound of what Nest buffers for one connection. In Nest's own form the body is JSON text inside JSON, where quotes and
 * backslashes count twice; the buffer also holds what arrived behind a message.
 */
const frameCharacters = (maxBytes: number): number => 2 * maxBytes + readAheadCharacters;

/**
 * Nest's socket, with the body of a message behind its packet, and with all that is sent in one turn of the event loop in
 * one piece: each write is a call to the system, which costs as much as the rest of a small message. A caller that speaks as
 * Nest does is answered in the same way.
 */
export class FrameSocket extends JsonSocket {
  private readonly asks: boolean;
  private unsent = '';

  /** @param speaksFrames whether the other side, which is asked, is known to understand them; otherwise it is once it has sent one */
  constructor(
    socket: TcpSocket['socket'],
    maxBytes: number,
    private speaksFrames: boolean,
    options?: JsonSocketOptions,
  ) {
    super(socket, { maxBufferSize: frameCharacters(maxBytes), ...options });
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
    // What Nest does once it has made its text.
    // Who asks goes on reading: two that both wait for the other to read would wait for ever.
    if (!this.socket.write(text, callback) && !this.asks) this['applyBackpressure']();
    this['assertSendBufferWithinLimit']();
  }

  /** What does not begin with a length never becomes a message: it is not waited for. */
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
