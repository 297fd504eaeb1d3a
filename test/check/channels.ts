import { query } from '../support/helper.js'

/** Channels that are retained for longer than a run. */
export const DURABLE = ['kept:0', 'kept:1', 'kept:2']
/** Channels that are not durable. */
export const EPHEMERAL = ['free:0', 'free:1']
/** Rows that writers update, and whose version they publish. */
export const ROWS = ['row 0', 'row 1', 'row 2']
/** Rows of a watched table. */
export const WATCHED = ['0', '1']
export const WATCHED_CHANNELS = WATCHED.map((name) => `table:${name}`)
export const COMPLETE = [...DURABLE, ...WATCHED_CHANNELS]

/** Creates what the writers need, in a database with the schema. */
export async function prepare(dbUri: string): Promise<void> {
  await query(
    dbUri,
    `select pgws.retain('kept:*', '1 day'), pgws.retain('table:*', '1 day');
     create table counters (name text primary key, n bigint not null);
     create table committed (id text primary key);
     create table watched (name text primary key, n bigint not null, message text);
     select pgws.watch('watched', 'table:{name}', '{UPDATE}', '{message}');`
  )
  await query(dbUri, 'insert into counters select unnest($1::text[]), 0', [ROWS])
  await query(dbUri, 'insert into watched select unnest($1::text[]), 0', [WATCHED])
}
