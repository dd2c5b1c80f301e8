import { describeCleave, partsFor } from './suite.js';

describeCleave('split-redis', partsFor('split-redis'));
