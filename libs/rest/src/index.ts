/** What every REST controller needs, whatever its domain: the app, validation, replies, problem documents, OpenAPI. */
export { isAskedFor } from './accept.js';
export * from './app.js';
export { auditing, eachAudited, type Audited } from './audit.js';
export { refuseUnsafeJson } from './body.js';
export { connectionLimits, fullHeader, usualConnectionLimits } from './connections.js';
export { Endpoint, JsonText, eventStream, type EndpointOptions } from './endpoint.js';
export { CalledBy, authenticating, reauthenticating, refusingPages } from './guard.js';
export * from './headers.js';
export { listenAt } from './listening.js';
export * from './openapi.js';
export * from './paging.js';
export * from './process.js';
export { StartupServer } from './startup-server.js';
export { uuidOr, valid } from './valid.js';
