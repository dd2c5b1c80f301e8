/** A packet of Nest's TCP protocol: a request or its response. */
export interface Packet {
  data?: unknown;
  response?: unknown;
}

const hasBody = (data: unknown): data is { body: string } =>
  typeof data === 'object' && data !== null && 'body' in data && typeof data.body === 'string';

/** Undefined for a packet without a body, which is sent as plain JSON. */
function contentOf(packet: Packet): string | undefined {
  const { data, response } = packet;
  // JSON.stringify omits undefined properties.
  if (typeof response === 'string') return `${JSON.stringify({ ...packet, response: undefined })}\n${response}`;
  if (!hasBody(data)) return undefined;
  return `${JSON.stringify({ ...packet, data: { ...data, body: undefined } })}\n${data.body}`;
}

/**
 * A frame: its length, `#`, the packet without its body as JSON on one line, and the body, which is JSON text already. In
 * Nest's own form the body is a string within the packet, so it is escaped and parsed once more, which from a few KB on is
 * most of the cost of a call. The length, written as Nest does, lets frames be concatenated.
 */
export function frameOf(packet: Packet): string {
  const content = contentOf(packet) ?? JSON.stringify(packet);
  return `${content.length}#${content}`;
}

/** Parses a frame without its length. Undefined for plain JSON, a packet without a body. */
export function packetIn(content: string): Packet | undefined {
  const headEnd = content.indexOf('\n');
  if (headEnd < 0) return undefined;
  let head: unknown;
  try {
    head = JSON.parse(content.slice(0, headEnd));
  } catch {
    return undefined;
  }
  if (typeof head !== 'object' || head === null) return undefined;
  const packet: Packet = head;
  const body = content.slice(headEnd + 1);
  if (typeof packet.data === 'object' && packet.data !== null) Object.assign(packet.data, { body });
  else packet.response = body;
  return packet;
}

/** The packets of concatenated frames. @throws SyntaxError for any other text */
export function packetsIn(text: string): Packet[] {
  const packets: Packet[] = [];
  for (let at = 0; at < text.length;) {
    const lengthEnd = text.indexOf('#', at);
    const length = /^\d+$/.test(text.slice(at, lengthEnd)) ? Number(text.slice(at, lengthEnd)) : Number.NaN;
    const content = text.slice(lengthEnd + 1, lengthEnd + 1 + length);
    if (content.length !== length) throw new SyntaxError('a frame begins with its length');
    at = lengthEnd + 1 + length;
    packets.push(packetIn(content) ?? (JSON.parse(content) as Packet));
  }
  return packets;
}
