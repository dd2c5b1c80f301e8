import type { DocumentOptions } from '#rest';

/** The introduction to the whole API, and its tags in display order, the same for every process. */
export const apiDocument: DocumentOptions = {
  title: 'Cleave',
  description: [
    'Places orders, reserves stock, takes payments and caches values.',
    [
      '- **Authentication**: send `Authorization: Bearer` with an API key or a token. Each operation names its scope.',
      '- **Errors** are problem documents (RFC 9457) with a stable `code`, which `GET /problems/{code}` explains.',
      '- **Retries**: an operation that takes an `Idempotency-Key` takes effect once, however often you repeat it with that key.',
      '- **Lists** come in pages: pass `next_cursor` as `cursor` until it is null. `GET /events` and `GET /audit` have no end: ' +
        'pass it as `after`.',
      '- **Money** is an integer in minor units (cents, pence), with an ISO 4217 currency.',
    ].join('\n'),
  ].join('\n\n'),
  tags: [
    { name: 'orders', description: 'Place, read and change orders; follow what happens to them' },
    { name: 'customers', description: 'Export and erase personal data' },
    { name: 'payments', description: 'Captures and refunds' },
    { name: 'products', description: 'Product names and prices' },
    { name: 'stock', description: 'Stock levels: on the shelf, reserved, available' },
    { name: 'sales', description: 'Units sold by product and day, and how long the stock will last' },
    { name: 'webhooks', description: 'Notify merchants about events' },
    { name: 'cache', description: 'A cache for any JSON value' },
    { name: 'dead letters', description: 'Payments that need a person' },
    { name: 'keys', description: 'API keys' },
    { name: 'audit', description: 'The audit log of sensitive operations' },
    { name: 'health', description: 'Health, metrics and log level, for operators' },
    { name: 'problems', description: 'Explanations of the error codes' },
  ],
};
