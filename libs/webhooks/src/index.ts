export { WebhooksModule, webhooksEnvironment } from './webhooks.module.js';
