import { describe, expect, it } from '@jest/globals';
import { isAskedFor } from '../src/accept.js';

describe('a media type beside the default one', () => {
  const asked = (accept: string): boolean => isAskedFor(accept, 'text/event-stream');

  it.each([
    'text/event-stream',
    'Text/Event-Stream',
    'text/event-stream;charset=utf-8',
    'text/event-stream ; Q=0.001',
    'text/event-stream, */*',
    'application/json, text/event-stream',
    'application/json;q=0.5, text/event-stream;q=0.6',
    'text/event-stream;q=0, text/event-stream',
    'text/*',
    '*/*;q=0.1, text/*;q=0.2',
    '*/*, application/json;q=0',
  ])('is requested by %s', (accept) => expect(asked(accept)).toBe(true));

  it.each([
    '',
    '*/*',
    'application/json',
    'text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8',
    'text/event-stream;q=0',
    'text/event-stream;q=0.0, */*',
    'text/event-stream;q=0.5, application/json',
    'text/*;q=0.5, */*',
    'text/*, text/event-stream;q=0',
    'text/event-stream;q=much',
    'text/event-stream-of-another-kind',
    'application/x+text/event-stream',
  ])('is not requested by %j', (accept) => expect(asked(accept)).toBe(false));
});
