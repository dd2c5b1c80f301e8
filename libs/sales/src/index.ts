export { SalesModule, salesDatabase, salesEnvironment } from './sales.module.js';
