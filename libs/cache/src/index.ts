export { CacheModule, cacheEnvironment } from './cache.module.js';
