import { describeCleave } from './suite.js';

describeCleave('monolith');
