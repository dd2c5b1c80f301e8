import { securityTests } from './suite.js';

securityTests('monolith');
