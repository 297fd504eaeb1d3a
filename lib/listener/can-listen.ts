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
  const { pid, standby } = await session(client)
  if (standby) throw new errors.CannotListen('the database is a hot standby: name the primary')
  // A pooler invents the process number in its handshake (BackendKeyData, protocol-flow.html).
  if ('processID' in client && client.processID === pid) return
  // In session mode a pooler gives each client its own session, so LISTEN works.
  const other = await connect()
  try {
    const shared = (await session(other)).pid === pid || (await session(client)).pid !== pid
    if (shared) {
      throw new errors.CannotListen(
        'it goes through a connection pooler in transaction mode: name the database server itself'
      )
    }
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
