import { Metadata, status as Code } from '@grpc/grpc-js';
import type { CleaveError, ErrorCode, Fault } from '#contracts';
import { errorTypeOf } from '#telemetry';
import { messagesIn } from './definition.js';

/** The status of a refused call, in the form that grpc-js expects. */
export interface RefusedStatus {
  /** The stable error code; only sent within the details. */
  reason: ErrorCode;
  code: Code;
  details: string;
  metadata: Metadata;
}

/** By HTTP status (AIP-193), for error codes that are not in `codeOfError`. */
const codeOfStatus: Record<number, Code> = {
  400: Code.INVALID_ARGUMENT,
  401: Code.UNAUTHENTICATED,
  403: Code.PERMISSION_DENIED,
  404: Code.NOT_FOUND,
  405: Code.UNIMPLEMENTED,
  408: Code.DEADLINE_EXCEEDED,
  409: Code.FAILED_PRECONDITION,
  412: Code.ABORTED,
  413: Code.RESOURCE_EXHAUSTED,
  415: Code.INVALID_ARGUMENT,
  417: Code.INVALID_ARGUMENT,
  421: Code.PERMISSION_DENIED,
  422: Code.INVALID_ARGUMENT,
  429: Code.RESOURCE_EXHAUSTED,
  431: Code.RESOURCE_EXHAUSTED,
  500: Code.INTERNAL,
  503: Code.UNAVAILABLE,
};

const codeOfError: Partial<Record<ErrorCode, Code>> = {
  // The state that the caller read has changed: it must read again and decide anew.
  'price-changed': Code.ABORTED,
  'request-in-progress': Code.ABORTED,
  'idempotency-key-reused': Code.ALREADY_EXISTS,
  'deadline-exceeded': Code.DEADLINE_EXCEEDED,
};

const rpc = {
  Status: {
    fields: {
      code: { type: 'int32', id: 1 },
      message: { type: 'string', id: 2 },
      details: { rule: 'repeated', type: 'google.protobuf.Any', id: 3 },
    },
  },
  ErrorInfo: {
    fields: {
      reason: { type: 'string', id: 1 },
      domain: { type: 'string', id: 2 },
      metadata: { keyType: 'string', type: 'string', id: 3 },
    },
  },
  RetryInfo: { fields: { retry_delay: { type: 'google.protobuf.Duration', id: 1 } } },
  BadRequest: {
    fields: { field_violations: { rule: 'repeated', type: 'FieldViolation', id: 1 } },
    nested: {
      FieldViolation: { fields: { field: { type: 'string', id: 1 }, description: { type: 'string', id: 2 } } },
    },
  },
};

const protobuf = {
  Any: { fields: { type_url: { type: 'string', id: 1 }, value: { type: 'bytes', id: 2 } } },
  Duration: { fields: { seconds: { type: 'int64', id: 1 }, nanos: { type: 'int32', id: 2 } } },
};

/** The error messages of google/rpc/status.proto and error_details.proto. */
const messages = messagesIn({
  nested: { google: { nested: { rpc: { nested: rpc }, protobuf: { nested: protobuf } } } },
});

const encoded = (name: string, message: object): Buffer => messages[`google.rpc.${name}`]!.serialize(message);

const detail = (name: string, message: object): object => ({
  type_url: `type.googleapis.com/google.rpc.${name}`,
  value: encoded(name, message),
});

/** By default, clients accept no more than 8 KiB of metadata. */
const mostDetailBytes = 4_096;
/** In percent-encoded form, as it is sent. */
const mostMessageBytes = 2_000;

const withinBytes = (message: string): string => {
  let text = message.toWellFormed();
  const isTooLong = encodeURI(text).length > mostMessageBytes;
  // Cut in steps, because a character takes up to twelve bytes.
  while (encodeURI(text).length > mostMessageBytes) text = text.slice(0, Math.floor(text.length * 0.9)).toWellFormed();
  return isTooLong ? `${text}…` : text;
};

const delayOf = (retryAfterMs: unknown): { seconds: number; nanos: number } => {
  const ms = typeof retryAfterMs === 'number' ? Math.round(retryAfterMs) : 1_000;
  return { seconds: Math.floor(ms / 1_000), nanos: (ms % 1_000) * 1_000_000 };
};

/** The status for an error, with the details of AIP-193. */
export const statusOf = ({ code: reason, detail: message, extensions, status }: CleaveError): RefusedStatus => {
  const code = codeOfError[reason] ?? codeOfStatus[status] ?? Code.UNKNOWN;
  const text = withinBytes(message);
  const { faults = [], ...others } = extensions as { faults?: Fault[] };
  const info = Object.entries(others).map(([name, value]) => [
    name,
    typeof value === 'string' ? value : JSON.stringify(value),
  ]);
  const bytesOf = (listed: number, named: number): Buffer =>
    encoded('Status', {
      code,
      message: text,
      details: [
        detail('ErrorInfo', { reason, domain: 'cleave', metadata: Object.fromEntries(info.slice(0, named)) }),
        ...(listed > 0
          ? [
              detail('BadRequest', {
                field_violations: faults
                  .slice(0, listed)
                  .map(({ path: field, message: description }) => ({ field, description })),
              }),
            ]
          : []),
        ...(status === 503 || status === 429
          ? [detail('RetryInfo', { retry_delay: delayOf(extensions['retry_after_ms']) })]
          : []),
      ],
    });
  let listed = faults.length;
  let named = info.length;
  let bytes = bytesOf(listed, named);
  while (bytes.length > mostDetailBytes && listed + named > 0) {
    listed = Math.floor(listed / 2);
    named = Math.floor(named / 2);
    bytes = bytesOf(listed, named);
  }
  const metadata = new Metadata();
  metadata.set('grpc-status-details-bin', bytes);
  return { reason, code, details: text, metadata };
};

/** The stable code of a refusal, or the class of any other error. */
export const typeOfRefusal = (error: unknown): string =>
  (error as Partial<RefusedStatus> | undefined)?.reason ?? errorTypeOf(error);
