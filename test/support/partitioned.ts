import type { Test } from 'tap'
import { query, sqlListener, until } from './helper.js'

interface Change {
  operation: string
  table: string
  partition: string | null
  record: Record<string, unknown> | null
  old_record: Record<string, unknown> | null
}

/** A partitioned table. One of its partitions has its columns in another order. */
export const PARTS = `create table parts (id int, region text, note text) partition by list (region);
  create table north partition of parts for values in ('n');
  create table south (note text, gone int, region text, id int);
  alter table south drop column gone;
  alter table parts attach partition south for values in ('s');`

/** Creates `PARTS` in a database with the schema, and watches it. */
export async function partitioned(t: Test, dbUri: string, watch = "select pgws.watch('parts', 'parts')") {
  await query(dbUri, PARTS + watch)
  return { dbUri, changesBy: await changeListener(t, dbUri) }
}

/** Listens to change events. */
export async function changeListener(
  t: Test,
  dbUri: string
): Promise<(...statements: string[]) => Promise<string[]>> {
  const { payloads } = await sqlListener(t, dbUri)
  let ends = 0
  /** Runs statements in one transaction. Returns their change events as `channel operation table.partition old -> new`. */
  return async (...statements) => {
    const from = payloads.length
    const end = `end ${++ends}`
    await query(dbUri, statements.join(';'))
    await query(dbUri, `select pgws.publish_text('end', $1)`, [end])
    await until(() => payloads.length > from && JSON.parse(payloads.at(-1)!).payload === end)
    const row = (record: Change['record']) => record && Object.values(record).join('')
    return payloads.slice(from, -1).map((text) => {
      const { channel, payload } = JSON.parse(text) as { channel: string; payload: Change }
      const place = `${channel} ${payload.operation} ${payload.table}.${payload.partition}`
      return `${place} ${row(payload.old_record)} -> ${row(payload.record)}`
    })
  }
}
