export { SalesModule, salesEnvironment } from './sales.module.js';
