import { describeCleave, partsFor } from './suite.js';

describeCleave('split-nats', partsFor('split-nats'));
