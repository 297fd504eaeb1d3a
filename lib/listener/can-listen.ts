import type pg from 'pg'
import { errors } from '../errors.js'

/**
 * Checks that a connection can LISTEN: no hot standby is behind it
 * (https://www.postgresql.org/docs/current/hot-standby.html), and no pooler that gives each transaction another
 * session.
 * @param client the connection
 * @param connect opens another one in the same way
 * @throws CannotListen that says what to set
 */
export async function checkCanListen(client: pg.Client, connect: () => Promise<pg.Client>): Promise<void> {
  const { pid, standby } = await session(client)
  if (standby) throw new errors.CannotListen('the database is a hot standby: name the primary')
  // A pooler makes up the process number of its handshake (BackendKeyData, protocol-flow.html).
  if ('processID' in client && client.processID === pid) return
  // In session mode it gives each client a session of its own, and is as good as none.
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
