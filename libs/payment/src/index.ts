export { PaymentModule, paymentDatabase, paymentEnvironment } from './payment.module.js';
