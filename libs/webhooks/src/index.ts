export { WebhooksModule, webhooksDatabase, webhooksEnvironment } from './webhooks.module.js';
