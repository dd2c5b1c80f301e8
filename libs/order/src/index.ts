export { OrderModule, orderEnvironment } from './order.module.js';
