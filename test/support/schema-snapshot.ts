import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type pg from 'pg'
import { root } from './root.js'

/** The schema that the migrations make, to read and to compare. */
export const SNAPSHOT = join(root, 'lib/schema/schema.sql')

const HEAD = `-- The schema that the migrations in sql/ make, to read: nothing runs it, and a test compares it.
-- After a new migration: npm run schema:snapshot

set check_function_bodies = off;
`

/** The statements that make the schema `pgws` as the client's database has it. */
export async function schemaSnapshot(client: pg.Client): Promise<string> {
  // What is not PostgreSQL's own is then qualified in all definitions.
  await client.query("set search_path = ''")
  const query = readFileSync(join(root, 'test/fixtures/schema-snapshot.sql'), 'utf8')
  const { rows } = await client.query<{ text: string }>(query, ['pgws'])
  // PostgreSQL 13 shows extract() as the function that it was until then.
  const texts = rows.map(({ text }) => text.replace(/date_part\('(\w+)'::text, /g, 'EXTRACT($1 FROM '))
  return `${HEAD}${texts.map((text) => `\n${text};\n`).join('')}`
}
