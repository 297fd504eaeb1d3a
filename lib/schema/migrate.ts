import pg from 'pg'
import { codeOf, errors } from '../errors.js'
import { SETTINGS_CHANNEL, TIMEOUTS } from '../postgres/index.js'
import { type Migration, readMigrations } from './migrations.js'

const migrations = readMigrations()

/** The number of the last migration that this server knows. */
export const SCHEMA_VERSION = migrations.length

/** The first migration that is recorded in a table. */
const FIRST_COUNTED = 3

/** Selects whether the schema is installed, whether its migrations are recorded in a table, and whether it signs announcements. */
export const INSTALLED = `select pg_catalog.to_regclass('pgws.settings') is not null as installed,
  pg_catalog.to_regclass('pgws.migrations') is not null as counted,
  pg_catalog.to_regclass('pgws.secret') is not null as signs`

/** An expression for the number of the last migration of a database, for a row `s` of pgws.settings. */
export function appliedExpression(counted: boolean): string {
  return counted ? '(select pg_catalog.max(m.number) from pgws.migrations m)' : 's.version'
}

/** SQLSTATEs with which a session fails if another one creates the schema at the same time. */
const CREATED_MEANWHILE = new Set(['23505', '42P06'])

/** The SQLSTATE of a statement that has exceeded statement_timeout, and how often the beginning is attempted because of it. */
const QUERY_CANCELED = '57014'
const BEGIN_ATTEMPTS = 20

/**
 * Begins the transaction with settings of its own, whatever the role or the database sets. The SQL of migrations is parsed as
 * it is written. The transaction may write, even if transactions are read-only by default. It may wait for another migration
 * without a limit. All of this is one message, because a short timeout could end the session before a second one.
 */
const BEGIN = `begin isolation level read committed, read write;
  set local standard_conforming_strings to on; set local array_nulls to on; set local check_function_bodies to on;
  select pg_catalog.set_config(s.name, '0', true) from pg_catalog.pg_settings s
    where s.name operator(pg_catalog.=) any ('{${TIMEOUTS}}'::pg_catalog.text[])`

/**
 * Installs the schema `pgws`, or upgrades it, in one transaction.
 * @param client a connection that may create schemas in its database
 * @param listenChannel the database channel on which `pgws.publish` notifies
 * @returns the numbers of the last migration before (0: none) and now
 * @throws SchemaTooNew if this server is too old for the schema
 */
export async function migrate(
  client: pg.Client,
  listenChannel: string
): Promise<{ from: number; to: number }> {
  let from: number | undefined
  try {
    await begin(client)
    const { applied, required } = await lockSchema(client)
    if (required > SCHEMA_VERSION) throw new errors.SchemaTooNew(required, SCHEMA_VERSION)
    from = applied
    const missing = migrations.slice(from)
    for (const migration of missing) await apply(client, migration, listenChannel)
    if (missing.length > 0) {
      await client.query('select pg_catalog.pg_notify($1, $2)', [SETTINGS_CHANNEL, 'installed'])
    }
    await client.query(
      'update pgws.settings set listen_channel = $1 where listen_channel operator(pg_catalog.<>) $1',
      [listenChannel]
    )
    await client.query('commit')
    return { from, to: from + missing.length }
  } catch (error) {
    await client.query('rollback')
    const lostRace = from === 0 && error instanceof pg.DatabaseError && CREATED_MEANWHILE.has(error.code!)
    if (lostRace) return migrate(client, listenChannel)
    if (error instanceof pg.DatabaseError && error.code === '42501') {
      throw new Error(
        'this role may not install or upgrade the schema "pgws": grant it CREATE on the database (to upgrade, it must own the schema), or run "npx fastify-pg-websockets migrate" as another role',
        { cause: error }
      )
    }
    throw error
  }
}

/** Begins the transaction. Until its settings are in effect, a short timeout of the role may end it on a busy machine. */
async function begin(client: pg.Client): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await client.query(BEGIN)
      return
    } catch (error) {
      if (codeOf(error) !== QUERY_CANCELED || attempt === BEGIN_ATTEMPTS) throw error
      await client.query('rollback')
    }
  }
}

async function apply(
  client: pg.Client,
  { number, name, sql, oldestServer }: Migration,
  listenChannel: string
): Promise<void> {
  await client.query(sql)
  await client.query(
    `insert into pgws.settings (version, listen_channel) values ($1, $2)
     on conflict (only_row) do update set version = excluded.version`,
    [oldestServer, listenChannel]
  )
  if (number < FIRST_COUNTED) return
  await client.query('insert into pgws.migrations (number, name, oldest_server) values ($1, $2, $3)', [
    number,
    name,
    oldestServer
  ])
}

/** The state of the schema in a database. */
export interface InstalledSchema {
  /** The number of the last migration; 0: the schema is not installed. */
  applied: number
  /** The last migration that a server must know to use it. */
  required: number
}

/**
 * Locks the schema until the end of the transaction, so that one session at a time migrates. It locks a table of the schema,
 * because any role may take an advisory lock and keep it.
 */
async function lockSchema(client: pg.Client): Promise<InstalledSchema> {
  // Unqualified names in a migration are those of PostgreSQL, even if other users have created objects in `public`.
  await client.query('set local search_path = pg_catalog, pg_temp')
  const { rows: found } = await client.query<{ installed: boolean }>(INSTALLED)
  // If two sessions create the schema at the same time, one waits for the commit of the other, and fails.
  if (!found[0]!.installed) return { applied: 0, required: 0 }
  // Publishing does not wait for this lock.
  await client.query('lock table pgws.settings in share row exclusive mode')
  const { rows: now } = await client.query<{ counted: boolean }>(INSTALLED)
  const { rows: settings } = await client.query<InstalledSchema>(
    `select s.version as required, ${appliedExpression(now[0]!.counted)} as applied from pgws.settings s`
  )
  return settings[0] ?? { applied: 0, required: 0 }
}
