/** Postgres: the embedded server, one data source a module with its migrations, and prepared SQL on the same pool. */
export { cursorSecret } from './cursor-secret.js';
export { databaseFor, migrateDatabase, type Database } from './database-for.js';
export { startEmbeddedPostgres, type EmbeddedPostgres, type EmbeddedPostgresOptions } from './embedded-postgres.js';
export { InjectSql, Sql, sqlToken, type Queries, type Statement } from './sql.js';
export { asUnavailable } from './unavailable.js';
