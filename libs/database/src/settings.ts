import pg from 'pg';
import type { Sql } from './sql.js';

/** The secret that signs the module's cursors, shared by all instances: stored in `<schema>.settings`. */
export async function cursorSecret(sql: Sql, schema: string): Promise<string> {
  const [row] = await sql.query<{ value: string }>({
    name: `${schema}-cursor-secret`,
    text: `SELECT value FROM ${pg.escapeIdentifier(schema)}.settings WHERE name = 'cursor_secret'`,
  });
  if (!row) throw new Error(`${schema}.settings has no cursor_secret; the migrations of the module create it`);
  return row.value;
}

/**
 * Stores a value in `<schema>.settings` unless there already is one.
 *
 * @returns the stored value
 */
export async function firstSetting(sql: Sql, schema: string, name: string, value: string): Promise<string> {
  const settings = `${pg.escapeIdentifier(schema)}.settings`;
  // Reads first, because the setting exists on every call but the first.
  const known = { name: `${schema}-known-setting`, text: `SELECT value FROM ${settings} WHERE name = $1` };
  const [found] = await sql.query<{ value: string }>(known, [name]);
  if (found) return found.value;
  const kept = {
    name: `${schema}-first-setting`,
    text: `
      INSERT INTO ${settings} AS s (name, value) VALUES ($1, $2)
      ON CONFLICT (name) DO UPDATE SET value = s.value RETURNING value`,
  };
  const [row] = await sql.query<{ value: string }>(kept, [name, value]);
  return row!.value;
}
