export { PaymentModule, paymentEnvironment } from './payment.module.js';
