import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from '@jest/globals';
import { currentTrace, traceparentOf, withWork } from '#telemetry';

const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

describe('a traceparent', () => {
  it('is accepted unchanged if valid, and ignored otherwise', () => {
    expect(traceparentOf(traceparent)).toBe(traceparent);
    const malformed = [
      undefined,
      '',
      'x',
      traceparent.toUpperCase(),
      `${traceparent}-x`,
      traceparent.replace('00-', 'ff-'),
      `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`,
      `00-4bf92f3577b34da6a3ce929d0e0e4736-${'0'.repeat(16)}-01`,
      [traceparent],
    ];
    for (const header of malformed) expect(traceparentOf(header)).toBeUndefined();
  });

  it('is current during its work, across await, and not outside', async () => {
    const seen = withWork({ traceparent }, async () => {
      await setTimeout(1);
      return currentTrace();
    });
    expect(currentTrace()).toBeUndefined();
    expect(await seen).toBe(traceparent);
    expect(withWork({}, currentTrace)).toBeUndefined();
  });
});
