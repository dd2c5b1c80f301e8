/** The text of 16 bytes as a UUID (RFC 9562) of a version; its version and variant bits are written over. */
export const uuidOf = (bytes: Buffer, version: number): string => {
  const marked = Buffer.from(bytes);
  marked[6] = (marked[6]! & 0x0f) | (version << 4);
  marked[8] = (marked[8]! & 0x3f) | 0x80;
  return marked.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
};
