import { status as Code } from '@grpc/grpc-js';
import { expect, it } from '@jest/globals';
import { CleaveError, errorCodes, type ErrorCode } from '#contracts';
import { statusOf } from '../src/status.js';

const codes = Object.keys(errorCodes) as ErrorCode[];

it('every error code has a gRPC status, and only internal is INTERNAL', () => {
  const told = codes.map((code) => [code, Code[statusOf(new CleaveError(code, 'why')).code]]);
  expect(told.filter(([, status]) => status === 'UNKNOWN')).toEqual([]);
  expect(told.filter(([, status]) => status === 'INTERNAL')).toEqual([['internal', 'INTERNAL']]);
});

it('the details of an error are truncated to 4 KiB, its message to 1,001 characters', () => {
  const faults = Array.from({ length: 100 }, (_, index) => ({
    path: `lines.${index}.${'x'.repeat(100)}`,
    message: 'ö'.repeat(200),
  }));
  const products = 'p'.repeat(10_000);
  const { details, metadata } = statusOf(new CleaveError('invalid-request', '😀'.repeat(2_000), { faults, products }));
  const [bytes] = metadata.get('grpc-status-details-bin') as [Buffer];
  expect(bytes.length).toBeLessThanOrEqual(4_096);
  expect(bytes.toString()).toContain('lines.0.');
  expect(details.length).toBeLessThanOrEqual(1_001);
  // In its encoded form: encodeURI throws for text that is not well-formed.
  expect(encodeURI(details).length).toBeGreaterThan(0);
});
