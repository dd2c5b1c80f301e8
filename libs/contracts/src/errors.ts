/**
 * Every error a caller can meet, in one place: its stable code, the HTTP status it is answered with (RFC 9110) and the
 * title of its problem document (RFC 9457). A code keeps its one meaning for ever; `detail` carries the particulars and
 * what to do next.
 */
export const errorCodes = {
  'invalid-request': { status: 400, title: 'The request is not valid' },
  'invalid-cursor': { status: 400, title: 'The cursor is not valid' },
  'invalid-signature': { status: 400, title: 'The signature is not valid' },
  'idempotency-key-required': { status: 400, title: 'This operation needs an Idempotency-Key' },
  'invalid-idempotency-key': { status: 400, title: 'The Idempotency-Key is malformed' },
  unauthenticated: { status: 401, title: 'The caller is not authenticated' },
  forbidden: { status: 403, title: 'The caller is not allowed to do this' },
  'not-found': { status: 404, title: 'There is nothing at this address' },
  'order-not-found': { status: 404, title: 'There is no such order' },
  'payment-not-found': { status: 404, title: 'There is no payment for this order' },
  'dead-letter-not-found': { status: 404, title: 'There is no such dead letter' },
  'customer-not-found': { status: 404, title: 'There is no such customer' },
  'product-not-found': { status: 404, title: 'There is no such product' },
  'key-not-found': { status: 404, title: 'There is no such key' },
  'webhook-endpoint-not-found': { status: 404, title: 'There is no such webhook endpoint' },
  'webhook-delivery-not-found': { status: 404, title: 'There is no such webhook delivery' },
  'method-not-allowed': { status: 405, title: 'The address does not support this method' },
  'request-timeout': { status: 408, title: 'The request did not arrive in time' },
  'out-of-stock': { status: 409, title: 'There is not enough stock' },
  'price-changed': { status: 409, title: 'The total is not the one expected' },
  'illegal-transition': { status: 409, title: 'The order does not allow this in its present state' },
  'credit-exceeds-total': { status: 409, title: 'More would be credited than was paid' },
  'payment-refused': { status: 409, title: 'The money cannot be moved' },
  'stock-below-reserved': { status: 409, title: 'The stock would fall below what is reserved for orders' },
  'too-many-keys': { status: 409, title: 'The maximum number of keys is reached' },
  'too-many-webhook-endpoints': { status: 409, title: 'The maximum number of webhook endpoints is reached' },
  'request-in-progress': { status: 409, title: 'A request with this Idempotency-Key is still running' },
  'precondition-failed': { status: 412, title: 'The resource has changed since it was read' },
  'payload-too-large': { status: 413, title: 'The request is too large' },
  'unsupported-media-type': { status: 415, title: 'The content type is not supported' },
  'expectation-failed': { status: 417, title: 'The server does not meet this expectation' },
  'misdirected-request': { status: 421, title: 'The request is for another host' },
  'unknown-product': { status: 422, title: 'The order names a product that does not exist' },
  'currency-mismatch': { status: 422, title: 'The amounts are not all in one currency' },
  'personal-data-not-kept': { status: 422, title: 'Personal data cannot be stored here' },
  'webhook-url-refused': { status: 422, title: 'Webhooks are not sent to this address' },
  'idempotency-key-reused': { status: 422, title: 'This Idempotency-Key belongs to another request' },
  'too-many-requests': { status: 429, title: 'Too many requests' },
  'headers-too-large': { status: 431, title: 'The header fields are too large' },
  internal: { status: 500, title: 'Something went wrong on our side' },
  'data-key-missing': { status: 503, title: 'The key that encrypts this data is not configured' },
  unavailable: { status: 503, title: 'A service this request needs is not available' },
  cancelled: { status: 503, title: 'The caller has cancelled the request' },
  'deadline-exceeded': { status: 503, title: 'The answer did not come in time' },
} as const satisfies Record<string, { status: number; title: string }>;

export type ErrorCode = keyof typeof errorCodes;

export const isErrorCode = (code: unknown): code is ErrorCode =>
  typeof code === 'string' && Object.hasOwn(errorCodes, code);

/** One fault of a request: where it is (`lines.0.quantity`) and what is wrong there. */
export interface Fault {
  path: string;
  message: string;
}

/** An error with a stable code. REST sends it as problem+json, messages as `{code, detail, extensions}`. */
export class CleaveError extends Error {
  override readonly name = 'CleaveError';

  /**
   * @param detail what happened and what to do next, for a person to read
   * @param extensions further members of the problem document, plain JSON
   */
  constructor(
    readonly code: ErrorCode,
    readonly detail: string,
    readonly extensions: Record<string, unknown> = {},
    options?: ErrorOptions,
  ) {
    super(`${code}: ${detail}`, options);
  }

  get status(): number {
    return errorCodes[this.code].status;
  }
}

/** An `invalid-request` that is about one part of the request. */
export const invalidRequest = (path: string, message: string): CleaveError => {
  const fault: Fault = { path, message };
  return new CleaveError('invalid-request', `${path}: ${message}`, { faults: [fault] });
};
