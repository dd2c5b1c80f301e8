/** Sent by a server that is about to stop. It answers what it has got; new requests belong elsewhere. */
export const drainNotice = { id: 'draining', isDisposed: true } as const;

export const isDrainNotice = (packet: unknown): boolean =>
  typeof packet === 'object' && packet !== null && 'id' in packet && packet.id === drainNotice.id;

const readAheadCharacters = 1_048_576;

/**
 * The bound of what Nest buffers for one connection. The body is JSON text inside JSON, where quotes and backslashes count
 * twice; the buffer also holds what arrived behind a message.
 */
export const frameCharacters = (maxBytes: number): number => 2 * maxBytes + readAheadCharacters;
