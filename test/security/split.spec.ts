import { securityTests } from './suite.js';

securityTests('split-tcp');
