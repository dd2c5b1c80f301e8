/** Runs one process: starts its modules, serves REST, messages and gRPC, and stops gracefully. */
export { apiDocument } from './api-document.js';
export { databaseEnvironment, databaseFallbacks, startDatabaseFor, togetherFallbacks } from './databases.js';
export {
  createService,
  refuseUnsafeExposure,
  restEnvironment,
  run,
  serve,
  type RestSettings,
  type Service,
} from './serve.js';
export { welcome } from './welcome.js';
