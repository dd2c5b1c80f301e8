import pg from 'pg';
import type { Sql } from './sql.js';

/** The key that the module's cursors are signed with, the same in every instance: kept in `<schema>.settings`. */
export async function cursorSecret(sql: Sql, schema: string): Promise<string> {
  const [row] = await sql.query<{ value: string }>({
    name: `${schema}-cursor-secret`,
    text: `SELECT value FROM ${pg.escapeIdentifier(schema)}.settings WHERE name = 'cursor_secret'`,
  });
  if (!row) throw new Error(`${schema}.settings has no cursor_secret; the migrations of the module put it there`);
  return row.value;
}
