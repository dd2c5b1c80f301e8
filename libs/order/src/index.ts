export { OrderModule, orderEnvironment, orderGrpc } from './order.module.js';
