import pg from 'pg'
import { codeOf, errors } from '../../errors.js'
import { CHANNEL_NAME_LIMIT, type PgQuery } from '../../postgres/index.js'

/** The tables' names, as SQL identifiers. */
export interface Tables {
  /** Packets that are binary or large: the table of @socket.io/postgres-adapter. */
  attachments: string
  /** Packets that clients may have missed, in the order of their commits. */
  packets: string
  /** The sessions of disconnected clients, which may come back. */
  sessions: string
  /**
   * Two rows: `turn`, which is locked while positions are assigned, and `trimmed`, the position up to which packets have
   * been deleted.
   */
  recovery: string
}

/** The length of the longest suffix of the derived names. */
const SUFFIX_BYTES = '_sessions'.length

const NAME = /^(?:([a-z_][\w$]*|"(?:[^"]|"")+")\.)?([a-z_][\w$]*|"(?:[^"]|"")+")$/i

/**
 * Derives the names of all tables from that of the table of attachments.
 * @param name as in SQL: `name`, `schema.name`, or quoted
 * @throws InvalidOption if it is not a name
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

/** The table's definition in the documentation of @socket.io/postgres-adapter. */
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
    -- The sender, and the packet's number there. A packet that is sent twice is stored once.
    origin text not null,
    seq bigint not null,
    -- Null: the packet is not for clients.
    rooms text[],
    excluded text[],
    -- The message as it was notified; or, in attachment, in msgpack.
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
    -- In the row 'turn': changes with the database, so that offsets of another database are recognized.
    epoch text,
    position bigint not null default 0,
    -- In the row 'trimmed': when the last of the deleted packets was sent.
    at timestamptz not null default 'epoch'
  );
  insert into ${recovery} (name, epoch) values
    ('turn', pg_catalog.left(pg_catalog.md5(pg_catalog.concat(pg_catalog.random(), pg_catalog.clock_timestamp())), 8)),
    ('trimmed', null)
    on conflict do nothing`

/** The name of an index. An index is in the schema of its table. The table's name is shortened if it is too long. */
function indexName(table: string, what: string): string {
  const base = unquote(NAME.exec(table)![2]!)
  return pg.escapeIdentifier(`${base.slice(0, 50)}_${what}`)
}

/** SQLSTATEs that concurrent starts may cause, even with "if not exists". */
const RACES = new Set(['23505', '42P07', '42710', 'XX000'])
const MAX_TRIES = 5

/**
 * Creates the tables that are missing.
 * @param withRecovery whether to create the tables of connection state recovery, too
 */
export async function createTables(query: PgQuery, tables: Tables, withRecovery: boolean): Promise<void> {
  await create([tables.attachments], attachments(tables))
  if (withRecovery) await create([tables.packets, tables.sessions, tables.recovery], recovery(tables))

  async function create(names: string[], statements: string): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      // A role that may not create tables may use existing ones.
      const { rows } = await query(
        'select pg_catalog.bool_and(pg_catalog.to_regclass(name) is not null) as found from pg_catalog.unnest($1::pg_catalog.text[]) name',
        [names]
      )
      if (rows[0].found) return
      try {
        await query(statements)
        return
      } catch (error) {
        if (attempt === MAX_TRIES || !RACES.has(codeOf(error) ?? '')) throw error
      }
    }
  }
}
