import { randomUUID } from 'node:crypto';
import type { Requests } from './commands.js';

const placeOfKey = '00000000-0000-0000-0000-000000000000';

/** Requests as the bytes that are sent; only the key of an order varies. */
export class Templates {
  private readonly bytes: Buffer[];
  private readonly keyAt: number[];

  constructor({ method, paths, bodies, headers = {} }: Requests) {
    const more = Object.entries(headers)
      .map(([name, value]) => `${name}: ${value}\r\n`)
      .join('');
    const count = Math.max(paths.length, bodies.length);
    const texts = Array.from({ length: count }, (_, index) => {
      const head = `${method} ${paths[paths.length === 1 ? 0 : index]} HTTP/1.1\r\nhost: 127.0.0.1\r\n${more}`;
      const body = bodies[index];
      if (body === undefined) return `${head}\r\n`;
      return (
        `${head}content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n` +
        `idempotency-key: "${placeOfKey}"\r\n\r\n${body}`
      );
    });
    this.bytes = texts.map((it) => Buffer.from(it));
    this.keyAt = this.bytes.map((it) => it.indexOf(placeOfKey));
  }

  get count(): number {
    return this.bytes.length;
  }

  /**
   * A request with a key of its own. The key does not depend on the seed: two runs on one database must never share one, or
   * the second would measure replays.
   */
  request(index: number): Buffer {
    const template = this.bytes[index]!;
    const keyAt = this.keyAt[index]!;
    if (keyAt < 0) return template;
    const request = Buffer.from(template);
    request.write(randomUUID(), keyAt, 'latin1');
    return request;
  }
}
