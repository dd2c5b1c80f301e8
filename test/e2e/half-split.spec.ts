import { describeCleave, partsFor } from './suite.js';

describeCleave('half-split', partsFor('half-split'));
