import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type pg from 'pg'
import { root } from './root.js'

/** The file with the schema that the migrations make. It is for readers, and a test compares it. */
export const SNAPSHOT = join(root, 'lib/schema/schema.sql')

const HEAD = `-- The schema that the migrations in sql/ make, to read: nothing runs it, and a test compares it.
-- After a new migration: npm run schema:snapshot

set check_function_bodies = off;
`

/** The statements that create the schema `pgws` as it is in the client's database. */
export async function schemaSnapshot(client: pg.Client): Promise<string> {
  // With an empty search path, definitions qualify everything that is not in pg_catalog.
  await client.query("set search_path = ''")
  const query = readFileSync(join(root, 'test/fixtures/schema-snapshot.sql'), 'utf8')
  const { rows } = await client.query<{ text: string }>(query, ['pgws'])
  // PostgreSQL 13 shows extract() as the function date_part().
  const texts = rows.map(({ text }) => text.replace(/date_part\('(\w+)'::text, /g, 'EXTRACT($1 FROM '))
  return `${HEAD}${texts.map((text) => `\n${text};\n`).join('')}`
}
