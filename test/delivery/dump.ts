import { connected, query } from '../support/tables.js';

/** Holds the locks of a pg_dump: one on every table, which conflicts only with DDL such as `ALTER TABLE`. */
export const dumpUnderWay = async (url: string): Promise<{ end(): Promise<void> }> => {
  const tables = await query<{ name: string }>(
    url,
    `SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
     WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`,
  );
  const client = await connected(url);
  await client.query(`SET application_name = 'pg_dump'`);
  await client.query(`BEGIN; LOCK TABLE ${tables.map(({ name }) => name).join(', ')} IN ACCESS SHARE MODE`);
  return { end: () => client.end() };
};
