import pg from 'pg'
import { callsFunctions, checkFunctions } from '../../lib/auth/index.js'
import type { ResolvedOptions } from '../../lib/config/index.js'
import { RetentionRules } from '../../lib/durable/index.js'
import { errors } from '../../lib/errors.js'
import type { PgQuery } from '../../lib/postgres/index.js'
import { excessOf } from '../../lib/schema/index.js'
import type { Reached } from './connection.js'
import type { Report } from './report.js'

/** The number of a server's connections in addition to its pool: one listens, and one announces. */
const OWN_CONNECTIONS = 2

/** Checks what the server's role may do, and what the database has for the server. */
export async function checkSchema(
  report: Report,
  database: Reached,
  options: ResolvedOptions,
  embedded: boolean
): Promise<void> {
  const role = await report.attempt('role', () => readRole(database.client))
  if (role === undefined) return
  const granted = await checkInstalled(report, database, options, role)
  if (granted && !embedded) await report.attempt('role', () => checkRole(report, database, options, role))
  await report.attempt('connections', () => checkConnections(report, database, options))
  if (callsFunctions(options)) {
    await report.attempt('functions', async () => {
      await checkFunctions(database.client, options)
      report.ok('functions', 'the SQL functions of the options are there')
    })
  }
}

const queryOf =
  (client: pg.Client): PgQuery =>
  (text, values) =>
    client.query(text, values)

interface Role {
  name: string
  superuser: boolean
  creates: boolean
  readOnly: boolean
}

async function readRole(client: pg.Client): Promise<Role> {
  const { rows } = await client.query<Role>(
    `select current_user::pg_catalog.text as name, r.rolsuper as superuser,
      pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create') as creates,
      pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool as "readOnly"
    from pg_catalog.pg_roles r where r.rolname operator(pg_catalog.=) current_user`
  )
  return rows[0]!
}

/** @returns whether the role may use what is installed */
async function checkInstalled(
  report: Report,
  { client }: Reached,
  { migrate, listenChannel }: ResolvedOptions,
  { name, creates }: Role
): Promise<boolean> {
  const rules = new RetentionRules(queryOf(client))
  try {
    await rules.refresh()
  } catch (error) {
    if (error instanceof errors.MissingGrant) {
      report.error('role', error.cause)
      return false
    }
    if (error instanceof errors.SchemaTooOld && migrate) {
      report.ok('schema', 'the schema "pgws" is of an older release: the start upgrades it (PGWS_MIGRATE)')
    } else report.error('schema', error)
    return true
  }
  if (rules.installed) await checkListenChannel(report, client, listenChannel)
  else if (!migrate) {
    report.warning(
      'schema',
      'the schema "pgws" is not installed: there are no durable channels, and no pgws.publish. Run: npx fastify-pg-websockets migrate (or set PGWS_MIGRATE=true)'
    )
  } else if (creates) {
    report.ok('schema', 'the schema "pgws" is not installed: the start installs it (PGWS_MIGRATE)')
  } else {
    report.error(
      'schema',
      `the schema "pgws" is not installed, and the role ${pg.escapeIdentifier(name)} may not install it at the start (PGWS_MIGRATE): run npx fastify-pg-websockets migrate as another role, or grant it CREATE on the database`
    )
  }
  return true
}

/** Checks the channel that `pgws.publish` notifies. It is the option `listenChannel` of the last migration. */
async function checkListenChannel(report: Report, client: pg.Client, listenChannel: string): Promise<void> {
  const { rows } = await client.query<{ channel: string }>(
    'select s.listen_channel as channel from pgws.settings s'
  )
  const { channel } = rows[0]!
  if (channel === listenChannel) report.ok('schema', 'the schema "pgws" is up to date')
  else {
    report.warning(
      'schema',
      `pgws.publish notifies the channel "${channel}", and this server listens to "${listenChannel}" (PGWS_LISTEN_CHANNEL): set it to "${channel}", or run: npx fastify-pg-websockets migrate`
    )
  }
}

async function checkRole(
  report: Report,
  { client }: Reached,
  options: ResolvedOptions,
  { name, superuser, readOnly }: Role
): Promise<void> {
  const quoted = pg.escapeIdentifier(name)
  const excess = callsFunctions(options)
    ? await excessOf(queryOf(client))
    : superuser && `the role ${quoted} is a superuser: use one that only has pgws_server`
  if (excess) report.warning('role', excess)
  else report.ok('role', `${quoted} may do what the server needs`)
  if (readOnly) {
    report.warning(
      'role',
      `the sessions of ${quoted} are read-only (default_transaction_read_only): messages of durable channels cannot be stored`
    )
  }
}

async function checkConnections(
  report: Report,
  { client }: Reached,
  { poolSize }: ResolvedOptions
): Promise<void> {
  const { rows } = await client.query<{ max: number; reserved: number; role: number; database: number }>(
    `select pg_catalog.current_setting('max_connections')::pg_catalog.int4 as max,
      pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4 as reserved,
      r.rolconnlimit as role, d.datconnlimit as database
    from pg_catalog.pg_roles r, pg_catalog.pg_database d
    where r.rolname operator(pg_catalog.=) current_user
      and d.datname operator(pg_catalog.=) pg_catalog.current_database()`
  )
  const { max, reserved, role, database } = rows[0]!
  const needed = poolSize + OWN_CONNECTIONS
  // -1: no limit.
  const limit = Math.min(...[max - reserved, role, database].filter((number) => number >= 0))
  if (limit >= needed) {
    report.ok('connections', `each server opens up to ${needed} of the ${limit} that the database allows`)
  } else {
    report.warning(
      'connections',
      `each server opens up to ${needed} (PGWS_POOL_SIZE and ${OWN_CONNECTIONS}), and the database allows ${limit}: raise CONNECTION LIMIT of the role or the database, or max_connections, or lower PGWS_POOL_SIZE`
    )
  }
}
