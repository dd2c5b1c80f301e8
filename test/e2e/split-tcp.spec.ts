import { describeCleave } from './suite.js';

describeCleave('split-tcp');
