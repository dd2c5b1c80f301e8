/** One base URL for services that answer REST apart: a table of routes, a proxy, one document and one report of health. */
export { gateway, passingOn } from './gateway.js';
export { gatewayEnvironment, upstreamsIn, type GatewayEnvironment } from './routes.js';
