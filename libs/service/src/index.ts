/** One process: its modules, answering REST and messages, until it is told to stop. */
export { apiDocument } from './api-document.js';
export { databaseEnvironment, databaseFallbacks, startDatabaseFor, togetherFallbacks } from './databases.js';
export {
  createService,
  refuseOpenDoor,
  restEnvironment,
  run,
  serve,
  type RestSettings,
  type Service,
} from './serve.js';
export { welcome } from './welcome.js';
