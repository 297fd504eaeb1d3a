import pg from 'pg'
import { codeOf, errors } from '../errors.js'
import type { Query } from '../postgres/index.js'

/** What each role of the schema `pgws` may use. The migrations grant it to the roles that exist. */
const ROLES = {
  pgws_publisher: {
    functions: [
      'publish',
      'publish_text',
      'publish_bytes',
      'watch',
      'unwatch',
      'tell',
      'tell_partitioned',
      'updating',
      'move',
      'follow_moves',
      'position'
    ],
    tables: []
  },
  pgws_server: {
    functions: [
      'relay',
      'relay_quietly',
      'by_bus',
      'clean',
      'message_id',
      'history',
      'max_age',
      'handle',
      'position',
      'last_position',
      'lead',
      'lead_bus',
      'log',
      'last_place',
      'mark',
      'places',
      'turn_passing',
      'resign',
      'sequence',
      'catch_up',
      'empty_outbox',
      'beat',
      'revoke',
      'unrevoke'
    ],
    tables: [
      'settings',
      'migrations',
      'retention',
      'messages',
      'large',
      'positions',
      'trimmed',
      'forgotten',
      'secret',
      'revocations'
    ]
  }
}

/** Without these, the server cannot publish, or does not know which channels are durable. */
const NEEDED = {
  functions: ['relay', 'last_position', 'catch_up', 'lead', 'lead_bus', 'sequence', 'log', 'mark'],
  tables: [
    'settings',
    'migrations',
    'retention',
    'messages',
    'large',
    'trimmed',
    'forgotten',
    'secret',
    'revocations'
  ]
}

/**
 * Selects the functions and tables that a role may not use, as GRANT names them. Without a role, it is the server's own; for
 * a role that does not exist, all are selected. Functions with the same name have the types of their arguments.
 */
const LACKING = `with role as (
    select coalesce($1::pg_catalog.name, current_user) as name,
      $1 is not null and pg_catalog.to_regrole($1::pg_catalog.text) is null as missing
  ), named as (
    select p.oid, p.proname::pg_catalog.text as name, pg_catalog.count(*) over (partition by p.proname) as sharing
    from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) p.pronamespace
    where n.nspname operator(pg_catalog.=) 'pgws'
  )
  select 'function pgws.' operator(pg_catalog.||) f.name operator(pg_catalog.||) case when f.sharing operator(pg_catalog.>) 1
      then pg_catalog.format('(%s)', pg_catalog.pg_get_function_identity_arguments(f.oid)) else '' end as object
    from named f, role r
    where f.name operator(pg_catalog.=) any ($2::pg_catalog.text[])
      and case when r.missing then true else not pg_catalog.has_function_privilege(r.name, f.oid, 'execute') end
  union all
  select 'table pgws.' operator(pg_catalog.||) c.relname::pg_catalog.text
    from role r, pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
    where n.nspname operator(pg_catalog.=) 'pgws' and c.relname::pg_catalog.text operator(pg_catalog.=) any ($3::pg_catalog.text[])
      and case when r.missing then true else not pg_catalog.has_table_privilege(r.name, c.oid, 'select') end
  order by object`

/** Without these, the server cannot publish anything. */
const PUBLISHING = new Set([
  'function pgws.relay',
  'function pgws.catch_up',
  'table pgws.settings',
  'table pgws.retention'
])

/** What the server's role may do with the schema: all that is needed, only publish and deliver, or not even that. */
export type Permission = 'all' | 'some' | 'none'

/** Asks the database what the server's role may do with the schema. If it is not installed, the answer is `all`. */
export async function permissionOf(query: Query): Promise<Permission> {
  const { rows } = await query<{ object: string }>(LACKING, [null, NEEDED.functions, NEEDED.tables])
  if (rows.length === 0) return 'all'
  return rows.some(({ object }) => PUBLISHING.has(object)) ? 'none' : 'some'
}

/**
 * Checks that the server's role may use the schema. Does nothing if it is not installed.
 * @throws MissingGrant, whose cause says what to grant
 */
export async function checkServerRole(query: Query): Promise<void> {
  const { rows: lacking } = await query(LACKING, [null, NEEDED.functions, NEEDED.tables])
  if (lacking.length === 0) return
  const { rows } = await query<{ role: string; grantable: boolean }>(
    "select current_user::pg_catalog.text as role, pg_catalog.to_regrole('pgws_server') is not null as grantable"
  )
  const { role, grantable } = rows[0]!
  const grant = `grant pgws_server to ${pg.escapeIdentifier(role)}`
  const advice = grantable
    ? `run "${grant}"`
    : `run "create role pgws_server nologin", "fastify-pg-websockets migrate", and "${grant}"`
  const objects = lacking.map(({ object }) => object).join(', ')
  throw new errors.MissingGrant({
    cause: new Error(`the role ${pg.escapeIdentifier(role)} lacks ${objects}: ${advice}`)
  })
}

/** Selects up to three tables that the server's role owns, or a role whose rights it has without SET ROLE. */
const POWER = `select current_user::pg_catalog.text as role, r.rolsuper as superuser, array(
    select pg_catalog.format('%I.%I', n.nspname, c.relname)
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
    where c.relkind::pg_catalog.text operator(pg_catalog.=) any (array['r', 'p'])
      and n.nspname operator(pg_catalog.!~) '^(?:pg_|information_schema$)'
      and pg_catalog.pg_has_role(c.relowner, 'usage')
    order by 1 limit 3
  ) as tables
  from pg_catalog.pg_roles r where r.rolname operator(pg_catalog.=) current_user`

/**
 * Finds rights of the server's role that the server does not need. Functions of the database's owner run in the server's
 * sessions, and code that they trigger can leave the sender's role (`set role none`). Then it has the server's rights.
 * @returns a sentence for the log; undefined if there are no such rights
 */
export async function excessOf(query: Query): Promise<string | undefined> {
  const { rows } = await query<{ role: string; superuser: boolean; tables: string[] }>(POWER)
  const { role, superuser, tables } = rows[0]!
  if (!superuser && tables.length === 0) return undefined
  const what = superuser ? 'is a superuser' : `owns tables (${tables.join(', ')})`
  return `the server's role ${pg.escapeIdentifier(role)} ${what}: code that its functions trigger could use these rights; use a role that owns nothing, has pgws_server, and may switch to the roles of tokens`
}

/**
 * Creates the missing roles of the schema and grants what they lack, as far as the client's role may do that.
 * @param client a connection that has migrated the schema
 * @returns the statements that another role must run, in order
 */
export async function completeRoles(client: pg.Client): Promise<string[]> {
  const missing: string[] = []
  for (const [role, { functions, tables }] of Object.entries(ROLES)) {
    const lacking = async () => {
      const { rows } = await client.query<{ object: string }>(LACKING, [role, functions, tables])
      return rows.map(
        ({ object }) => `grant ${object.startsWith('table') ? 'select' : 'execute'} on ${object} to ${role}`
      )
    }
    const { rows } = await client.query('select pg_catalog.to_regrole($1) is not null as found', [role])
    const creation = `create role ${role} nologin`
    if (!rows[0].found && !(await allowed(client, creation))) {
      missing.push(creation, ...(await lacking()))
      continue
    }
    for (const statement of await lacking()) await allowed(client, statement)
    // GRANT only warns if the role has a right but may not grant it.
    missing.push(...(await lacking()))
  }
  return missing
}

/**
 * SQLSTATEs (errcodes-appendix.html) that mean that another server has just done the same: the role exists already, or a
 * row of the catalog was updated concurrently.
 */
const DONE_MEANWHILE = new Set(['42710', '23505', 'XX000'])

/** Runs a statement. Returns false if the client's role may not run it. */
async function allowed(client: pg.Client, statement: string): Promise<boolean> {
  try {
    await client.query(statement)
    return true
  } catch (error) {
    const code = codeOf(error) ?? ''
    if (DONE_MEANWHILE.has(code)) return true
    if (code === '42501') return false
    throw error
  }
}
