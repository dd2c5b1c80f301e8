/** One base URL for services that answer REST apart: a table of routes, a proxy, one document and one report of health. */
export { gateway } from './gateway.js';
export { gatewayEnvironment, upstreamsIn } from './routes.js';
