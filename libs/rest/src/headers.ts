import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import { ApiHeader } from '@nestjs/swagger';
import type { FastifyRequest } from 'fastify';
import { CleaveError, invalidRequest, limits } from '#contracts';

const requestOf = (context: ExecutionContext): FastifyRequest => context.switchToHttp().getRequest();

/** A string of RFC 8941: printable ASCII in double quotes, with `\"` and `\\`. */
const quotedString = /^"(?:[ !#-[\]-~]|\\["\\])*"$/;
/** A key without quotes: any characters except space, quote, backslash and the separators of header fields. */
const bareKey = /^[!#-+\--:<-[\]-~]+$/;

/**
 * The request's `Idempotency-Key` (IETF draft): a string in double quotes. The same text without quotes is the same key.
 * Its type is `string | undefined`, or `string` with `{required: true}`.
 *
 * @throws CleaveError `invalid-idempotency-key`, `idempotency-key-required`
 */
export const IdempotencyKey = createParamDecorator(
  (options: { required: true } | undefined, context: ExecutionContext): string | undefined => {
    const request = requestOf(context);
    const header = request.headers['idempotency-key'];
    if (header === undefined) {
      if (!options?.required) return undefined;
      throw new CleaveError(
        'idempotency-key-required',
        'Send a header Idempotency-Key: a new value for each operation, and the same value when you repeat the request.',
      );
    }
    // Node joins repeated fields with a comma, which a quoted key may also contain.
    const repeated = header.includes(',') && (request.raw.headersDistinct['idempotency-key']?.length ?? 0) > 1;
    return idempotencyKeyIn(repeated ? undefined : String(header));
  },
);

/**
 * The idempotency key in a field value; undefined stands for a field that was sent more than once, which is invalid.
 *
 * @throws CleaveError `invalid-idempotency-key`
 */
export const idempotencyKeyIn = (field: string | undefined): string => {
  const key = field === undefined ? undefined : keyIn(field.trim());
  if (key === undefined || key.length < 1 || key.length > limits.keyLength) {
    throw new CleaveError(
      'invalid-idempotency-key',
      `An Idempotency-Key must be sent only once and have 1 to ${limits.keyLength} printable ASCII characters in double quotes, such as "8e03978e-40d5".`,
    );
  }
  return key;
};

const keyIn = (header: string): string | undefined => {
  if (quotedString.test(header)) return header.slice(1, -1).replaceAll(/\\(["\\])/g, '$1');
  return bareKey.test(header) ? header : undefined;
};

/** The entity tag of a version, for the header `ETag`. */
export const etagOf = (version: number): string => `"v${version}"`;

/** The next item in a list of entity tags (RFC 9110, 8.8.3 and 5.6.1), with optional whitespace and commas before it. */
const listedTag = /[\t ,]*((?:W\/)?"[!#-~\x80-\xff]*")[\t ]*(?=,|$)/gy;

/** @returns undefined for an empty list or malformed text */
export const entityTagsIn = (header: string): string[] | undefined => {
  const found = [...header.matchAll(listedTag)];
  const end = found.reduce((length, [it]) => length + it.length, 0);
  const isWhole = found.length > 0 && /^[\t ,]*$/.test(header.slice(end));
  return isWhole ? found.map(([, tag]) => tag!) : undefined;
};

/**
 * The versions in `If-Match`, of which any may match, as `readonly number[] | undefined`: undefined without the header or
 * with `*`.
 *
 * A well-formed tag that cannot be a version of ours, such as a weak one, matches nothing (RFC 9110, 13.1.1).
 *
 * @throws CleaveError `precondition-failed` if no tag can match, `invalid-request` if the header is malformed
 */
export const IfMatch = createParamDecorator(
  (_options: undefined, context: ExecutionContext): readonly number[] | undefined => {
    const header = requestOf(context).headers['if-match']?.trim();
    if (header === undefined || header === '*') return undefined;
    const tags = entityTagsIn(header);
    if (tags === undefined)
      throw invalidRequest('If-Match', 'must be * or a comma-separated list of entity tags such as "v3"');
    const versions = tags.flatMap((tag) => /^"v([1-9]\d{0,14})"$/.exec(tag)?.[1] ?? []).map(Number);
    if (versions.length === 0) {
      throw new CleaveError(
        'precondition-failed',
        'The entity tag was not issued by this server. Read the resource again.',
      );
    }
    return versions;
  },
  [
    (target, key) => {
      if (key === undefined) return;
      const method = Object.getOwnPropertyDescriptor(target, key);
      if (!method) return;
      ApiHeader({
        name: 'If-Match',
        description:
          'Takes effect only if the present version of the order has this `ETag`, or one of a list. Any version if left out.',
        required: false,
        schema: { type: 'string', examples: ['"v3"'] },
      })(target, key, method);
    },
  ],
);
