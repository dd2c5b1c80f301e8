import { describeCleave, essentials } from './suite.js';

/** `npm run test:shapes` runs the whole suite; otherwise only the parts that depend on the transport run. */
describeCleave('split-nats', 'everyShapeWhole' in globalThis ? undefined : essentials);
