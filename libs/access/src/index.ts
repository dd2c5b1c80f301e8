export { AccessModule, accessEnvironment } from './access.module.js';
