/** One base URL for separate services: a route table, a proxy, a merged OpenAPI document and a merged health report. */
export { gateway, passingOn } from './gateway.js';
export { gatewayEnvironment, upstreamsIn, type GatewayEnvironment } from './routes.js';
