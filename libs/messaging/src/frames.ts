/** A packet as Nest makes it: a request or what it is answered with. */
export interface Packet {
  data?: unknown;
  response?: unknown;
}

const hasBody = (data: unknown): data is { body: string } =>
  typeof data === 'object' && data !== null && 'body' in data && typeof data.body === 'string';

/** Undefined for a packet without a body: it is JSON as it is. */
function contentOf(packet: Packet): string | undefined {
  const { data, response } = packet;
  // What is undefined does not come into the JSON.
  if (typeof response === 'string') return `${JSON.stringify({ ...packet, response: undefined })}\n${response}`;
  if (!hasBody(data)) return undefined;
  return `${JSON.stringify({ ...packet, data: { ...data, body: undefined } })}\n${data.body}`;
}

/**
 * The packet without its body as JSON, which has no line break, and behind it the body, which is JSON text already. Within
 * the packet, as Nest sends it, it would be quoted and read once more, which for some KB is most of what a call costs. In
 * front stands the length, as Nest writes it, so that several can stand one behind the other.
 */
export function frameOf(packet: Packet): string {
  const content = contentOf(packet) ?? JSON.stringify(packet);
  return `${content.length}#${content}`;
}

/** The packet of a frame, without its length. Undefined for what has no body: a packet as JSON. */
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

/** The packets of frames that stand one behind the other. @throws SyntaxError for what are no frames */
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
