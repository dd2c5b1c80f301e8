/** Postgres: the embedded server, one data source per module with its migrations, and prepared SQL on the same pool. */
export { arrayOf } from './arrays.js';
export { awaitedDatabases, databaseFor, migrateDatabase, type Database } from './database-for.js';
export { startEmbeddedPostgres, type EmbeddedPostgres } from './embedded-postgres.js';
export { cursorSecret, firstSetting } from './settings.js';
export { InjectSql, Sql, sqlToken, type Queries, type Statement } from './sql.js';
export { isLockTimeout, lacksPrivilege } from './unavailable.js';
