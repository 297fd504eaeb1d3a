import fastifyPostgres from '@fastify/postgres'
import type { FastifyInstance } from 'fastify'
import type pg from 'pg'
import { acquire, clientClass } from '../lib/connect.js'
import type { ConnectionTarget } from '../lib/conninfo.js'

/** The name of our pool beside the host's: `fastify.pg.pgws`. */
const POOL_NAME = 'pgws'

/** How long a statement may take before it counts as failed, in milliseconds. */
const STATEMENT_DEADLINE = 5000

/** Runs one statement; rejects where it may not have been committed. */
export type Query = (text: string, values?: unknown[]) => Promise<pg.QueryResult>

/**
 * Registers @fastify/postgres with a pool of our own.
 * @param targets where to connect, in the order to try
 * @param size the most connections
 * @returns runs a statement in it; the pool is ended when the instance closes
 */
export async function registerPool(
  fastify: FastifyInstance,
  targets: ConnectionTarget[],
  size: number
): Promise<Query> {
  await fastify.register(fastifyPostgres, {
    name: POOL_NAME,
    Client: clientClass(targets),
    max: size,
    application_name: 'fastify-pg-websockets publisher',
    keepAlive: true,
    connectionTimeoutMillis: STATEMENT_DEADLINE,
    query_timeout: STATEMENT_DEADLINE
  })
  const { pool } = fastify.pg[POOL_NAME]!
  // An idle connection that dies is replaced by the next query; unheard, its error would end the process.
  pool.on('error', (error) => {
    fastify.log.warn({ err: error }, 'a publishing connection was lost')
  })
  return async (text, values) => {
    const client = await acquire(pool, targets)
    try {
      const result = await client.query(text, values)
      client.release()
      return result
    } catch (error) {
      // What a failed statement leaves behind, or one that is still running, is not for the next.
      client.release(true)
      throw error
    }
  }
}
