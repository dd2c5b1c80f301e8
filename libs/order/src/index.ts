export { OrderModule, orderDatabase, orderEnvironment, orderGrpc } from './order.module.js';
