import { describeCleave, essentials } from './suite.js';

/** The whole suite with `npm run test:shapes`; otherwise the parts that depend on the transport of requests and events. */
describeCleave('split-nats', 'everyShapeWhole' in globalThis ? undefined : essentials);
