export { AccessModule, accessDatabase, accessEnvironment } from './access.module.js';
