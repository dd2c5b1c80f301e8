const bytes = Buffer.from('{}');

/** With the head of an HTTP response. */
export const wholeOf = (body: Buffer): string =>
  `HTTP/1.1 201 Created\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: ${body.length}\r\n\r\n${body.toString()}`;

/** The answer to every request: its body as bytes and as a value, and the whole response. */
export const answer = { bytes, value: {} as unknown, whole: wholeOf(bytes) };
