import type { DocumentOptions } from '#rest';

/** How the whole API is introduced, whichever processes answer it. */
export const apiDocument: DocumentOptions = {
  title: 'Cleave',
  description:
    'Places orders, holds stock, takes payment and caches. Errors are problem documents (RFC 9457) with a stable `code`.',
  version: '1',
  tags: [
    { name: 'orders', description: 'Placed once, kept for ever' },
    { name: 'customers', description: 'What is kept of them, and how it is erased' },
    { name: 'payments', description: 'Promised, taken, given back' },
    { name: 'products', description: 'Names and prices' },
    { name: 'stock', description: 'What lies on the shelf, and what of it is promised' },
    { name: 'sales', description: 'What was sold by product and day, and how long the stock will last' },
    { name: 'webhooks', description: 'What merchants are told by themselves' },
    { name: 'cache', description: 'What is read often' },
    { name: 'dead letters', description: 'What waits for a person to decide' },
    { name: 'keys', description: 'Who may do what' },
    { name: 'audit', description: 'Who did what that does not happen all day' },
    { name: 'health', description: 'For those who operate it' },
    { name: 'problems', description: 'What the error codes mean' },
  ],
};
