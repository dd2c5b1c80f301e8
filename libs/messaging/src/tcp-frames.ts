import { JsonSocket, type JsonSocketOptions, type TcpSocket } from '@nestjs/microservices';

/** Sent by a server that is about to stop. It answers what it has got; new requests belong elsewhere. */
export const drainNotice = { id: 'draining', isDisposed: true } as const;

export const isDrainNotice = (packet: unknown): boolean =>
  typeof packet === 'object' && packet !== null && 'id' in packet && packet.id === drainNotice.id;

const readAheadCharacters = 1_048_576;

/**
 * The bound of what Nest buffers for one connection. In Nest's own form the body is JSON text inside JSON, where quotes and
 * backslashes count twice; the buffer also holds what arrived behind a message.
 */
const frameCharacters = (maxBytes: number): number => 2 * maxBytes + readAheadCharacters;

/** A packet as Nest makes it: a request or what it is answered with. */
interface Packet {
  data?: unknown;
  response?: unknown;
}

const hasBody = (data: unknown): data is { body: string } =>
  typeof data === 'object' && data !== null && 'body' in data && typeof data.body === 'string';

/** The packet without its body as JSON, which has no line break, and behind it the body, which is JSON text already. */
function frameOf(packet: Packet): string {
  const { data, response, ...rest } = packet;
  if (typeof response === 'string') return `${JSON.stringify(rest)}\n${response}`;
  if (!hasBody(data)) return JSON.stringify(packet);
  const { body, ...head } = data;
  return `${JSON.stringify({ ...rest, data: head })}\n${body}`;
}

/** Undefined for what is no frame: a packet as JSON. */
function packetIn(text: string): Packet | undefined {
  const headEnd = text.indexOf('\n');
  if (headEnd < 0) return undefined;
  let head: unknown;
  try {
    head = JSON.parse(text.slice(0, headEnd));
  } catch {
    return undefined;
  }
  if (typeof head !== 'object' || head === null) return undefined;
  const packet: Packet = head;
  const body = text.slice(headEnd + 1);
  if (typeof packet.data === 'object' && packet.data !== null) Object.assign(packet.data, { body });
  else packet.response = body;
  return packet;
}

/**
 * Nest's socket, with the body of a message behind its packet. Within it, as Nest sends it, it would be quoted and read
 * once more, which for some KB is most of what a call costs. A caller that speaks as Nest does is answered in the same way.
 */
export class FrameSocket extends JsonSocket {
  private readonly asks: boolean;

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
    const text = frameOf(packet);
    // What Nest does once it has made its text.
    // Who asks goes on reading: two that both wait for the other to read would wait for ever.
    if (!this.socket.write(`${text.length}#${text}`, callback) && !this.asks) this['applyBackpressure']();
    this['assertSendBufferWithinLimit']();
  }

  protected override emitMessage(text: string): void {
    const packet = packetIn(text);
    if (!packet) return super.emitMessage(text);
    this.speaksFrames = true;
    this.socket.emit('message', packet);
  }
}
