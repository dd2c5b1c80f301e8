import { describeCleave, essentials } from './suite.js';

/** All of the suite with `npm run test:shapes`; otherwise what depends on how requests and events travel. */
describeCleave('split-nats', 'everyShapeWhole' in globalThis ? undefined : essentials);
