import type pg from 'pg'
import { errors } from '../errors.js'

/**
 * Checks that a connection can LISTEN: the server is not a hot standby
 * (https://www.postgresql.org/docs/current/hot-standby.html), and there is no pooler that gives each transaction another
 * session.
 * @param client the connection
 * @param connect opens another connection in the same way
 * @throws CannotListen, which says what to set
 */
export async function checkCanListen(client: pg.Client, connect: () => Promise<pg.Client>): Promise<void> {
  const { standby } = await session(client)
  if (standby) throw new errors.CannotListen('the database is a hot standby: name the primary')
  if ((await poolerOf(client, connect)) === 'transaction') {
    throw new errors.CannotListen(
      'it goes through a connection pooler in transaction mode: name the database server itself'
    )
  }
}

/** What is between a connection and the database: a pooler that gives each client, or each transaction, a session. */
export type Pooler = 'none' | 'session' | 'transaction'

/**
 * Finds out whether a connection goes through a pooler.
 * @param connect opens another connection in the same way
 */
export async function poolerOf(client: pg.Client, connect: () => Promise<pg.Client>): Promise<Pooler> {
  const { pid } = await session(client)
  // A pooler invents the process number in its handshake (BackendKeyData, protocol-flow.html).
  if ('processID' in client && client.processID === pid) return 'none'
  // In session mode a pooler gives each client its own session, so LISTEN works.
  const other = await connect()
  try {
    const shared = (await session(other)).pid === pid || (await session(client)).pid !== pid
    return shared ? 'transaction' : 'session'
  } finally {
    other.end().catch(() => {})
  }
}

async function session(client: pg.Client): Promise<{ pid: number; standby: boolean }> {
  const { rows } = await client.query(
    'select pg_catalog.pg_backend_pid() as pid, pg_catalog.pg_is_in_recovery() as standby'
  )
  return rows[0]
}
