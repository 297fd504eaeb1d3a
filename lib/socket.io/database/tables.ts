import pg from 'pg'
import { codeOf, errors } from '../../errors.js'
import { CHANNEL_NAME_LIMIT, type PgQuery } from '../../postgres/index.js'

/** The tables' names, as SQL identifiers. */
export interface Tables {
  /** Packets that are binary or large: the table of @socket.io/postgres-adapter. */
  attachments: string
  /** Packets that clients may have missed, in the order of their commits. */
  packets: string
  /** What clients were that may come back. */
  sessions: string
  /** Two rows: `turn`, which is locked while positions are handed out, and `trimmed`: up to where packets are gone. */
  recovery: string
}

/** What the derived names add at most. */
const SUFFIX_BYTES = '_sessions'.length

const NAME = /^(?:([a-z_][\w$]*|"(?:[^"]|"")+")\.)?([a-z_][\w$]*|"(?:[^"]|"")+")$/i

/**
 * The tables that belong to a table of attachments.
 * @param name as in SQL: `name`, `schema.name`, or quoted
 * @throws InvalidOption for what is no name
 */
export function tablesOf(name: string): Tables {
  const [, schema, table] = (typeof name === 'string' && NAME.exec(name)) || []
  const base = table === undefined ? '' : unquote(table)
  if (base === '' || name.includes('\0') || Buffer.byteLength(base) + SUFFIX_BYTES > CHANNEL_NAME_LIMIT) {
    throw new errors.InvalidOption(
      'tableName',
      `must be the name of a table as in SQL, "name" or "schema.name", of at most ${CHANNEL_NAME_LIMIT - SUFFIX_BYTES} bytes`
    )
  }
  const prefix = schema === undefined ? '' : `${pg.escapeIdentifier(unquote(schema))}.`
  const identifier = (suffix: string) => prefix + pg.escapeIdentifier(base + suffix)
  return {
    attachments: identifier(''),
    packets: identifier('_packets'),
    sessions: identifier('_sessions'),
    recovery: identifier('_recovery')
  }
}

function unquote(identifier: string): string {
  return identifier.startsWith('"') ? identifier.slice(1, -1).replaceAll('""', '"') : identifier.toLowerCase()
}

/** The definition of @socket.io/postgres-adapter's documentation. */
const attachments = ({ attachments }: Tables) => `
  create table if not exists ${attachments} (
    id bigserial unique,
    created_at timestamptz default pg_catalog.now(),
    payload bytea
  )`

const recovery = ({ packets, sessions, recovery }: Tables) => `
  create table if not exists ${packets} (
    position bigserial primary key,
    nsp text not null,
    -- Who sent it, and its number there: what is sent a second time is not stored a second time.
    origin text not null,
    seq bigint not null,
    -- Null: nothing for clients.
    rooms text[],
    excluded text[],
    -- The message as it was notified, or in msgpack.
    body text,
    attachment bytea,
    created_at timestamptz not null default pg_catalog.clock_timestamp(),
    unique (origin, seq)
  );
  create index if not exists ${indexName(packets, 'nsp')} on ${packets} (nsp, position);
  create index if not exists ${indexName(packets, 'age')} on ${packets} (created_at);
  create table if not exists ${sessions} (
    pid text primary key,
    nsp text not null,
    body bytea not null,
    disconnected_at timestamptz not null
  );
  create table if not exists ${recovery} (
    name text primary key,
    -- Of 'turn': tells offsets of another database from ours.
    epoch text,
    position bigint not null default 0,
    -- When the last of the packets that are gone was sent.
    at timestamptz not null default 'epoch'
  );
  insert into ${recovery} (name, epoch) values
    ('turn', pg_catalog.left(pg_catalog.md5(pg_catalog.concat(pg_catalog.random(), pg_catalog.clock_timestamp())), 8)),
    ('trimmed', null)
    on conflict do nothing`

/** Indexes live in their table's schema, and their names may be cut. */
function indexName(table: string, what: string): string {
  const base = unquote(NAME.exec(table)![2]!)
  return pg.escapeIdentifier(`${base.slice(0, 50)}_${what}`)
}

/** What nodes that start together may run into, although each says "if not exists". */
const RACES = new Set(['23505', '42P07', '42710', 'XX000'])
const MAX_TRIES = 5

/**
 * Creates the tables that are missing.
 * @param wanted whether those of connection state recovery are wanted, too
 */
export async function createTables(query: PgQuery, tables: Tables, wanted: boolean): Promise<void> {
  await create([tables.attachments], attachments(tables))
  if (wanted) await create([tables.packets, tables.sessions, tables.recovery], recovery(tables))

  async function create(names: string[], statements: string): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      // A role that may not create anything may use what is there.
      const { rows } = await query(
        'select pg_catalog.bool_and(pg_catalog.to_regclass(name) is not null) as there from pg_catalog.unnest($1::pg_catalog.text[]) name',
        [names]
      )
      if (rows[0].there) return
      try {
        await query(statements)
        return
      } catch (error) {
        if (attempt === MAX_TRIES || !RACES.has(codeOf(error) ?? '')) throw error
      }
    }
  }
}
