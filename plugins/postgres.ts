import fastifyPostgres from '@fastify/postgres'
import type { FastifyInstance } from 'fastify'
import pg from 'pg'
import { acquire, clientClass } from '../lib/connect.js'
import type { ConnectionTarget } from '../lib/conninfo.js'
import { errors, messageOf } from '../lib/errors.js'

/** The name of our pool beside the host's: `fastify.pg.pgws`. */
const POOL_NAME = 'pgws'

/** How long a statement may take before it counts as failed, in milliseconds. */
const STATEMENT_DEADLINE = 5000

/** Runs one statement; rejects as BridgeOptions.query. */
export type Query = (text: string, values?: unknown[]) => Promise<pg.QueryResult>

export interface Pool {
  query: Query
  /** Closes every connection that is there now: idle ones at once, others after their statement. */
  recycle: () => void
}

const kGeneration = Symbol('pgws generation')

/**
 * Registers @fastify/postgres with a pool of our own.
 * @param targets where to connect, in the order to try
 * @param size the most connections
 * @returns the pool; it is ended when the instance closes
 */
export async function registerPool(
  fastify: FastifyInstance,
  targets: ConnectionTarget[],
  size: number
): Promise<Pool> {
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
  let generation = 0
  pool.on('connect', (client) => {
    Object.assign(client, { [kGeneration]: generation })
    // Between two statements a client that is checked out has no other listener.
    client.on('error', () => {})
  })

  async function acquireCurrent(): Promise<pg.PoolClient> {
    for (;;) {
      const client = await acquire(pool, targets)
      if ((client as unknown as { [kGeneration]: number })[kGeneration] === generation) return client
      client.release(true)
    }
  }

  return {
    recycle() {
      generation++
    },
    async query(text, values) {
      let client: pg.PoolClient
      try {
        client = await acquireCurrent()
      } catch (error) {
        throw new errors.DatabaseAway(messageOf(error))
      }
      try {
        const result = await client.query(text, values)
        client.release()
        return result
      } catch (error) {
        // What a failed statement leaves behind, or one that is still running, is not for the next.
        client.release(true)
        const classified = classify(error)
        // The others took the same way; each would cost its deadline.
        if (classified instanceof errors.OutcomeUnknown) generation++
        throw classified
      }
    }
  }
}

/**
 * SQLSTATE classes (errcodes-appendix.html) with which the server says that it is not there for us at the moment:
 * connection exceptions, insufficient resources (too many connections), operator intervention (shutdown, crash).
 */
const AWAY = /^(?:08|57P|53300)/

/** A statement that the server answered with an error was rolled back; one without an answer may have committed. */
function classify(error: unknown): Error {
  if (!(error instanceof pg.DatabaseError)) return new errors.OutcomeUnknown(messageOf(error))
  return AWAY.test(error.code ?? '')
    ? new errors.DatabaseAway(error.message)
    : new errors.NotAccepted(error.message)
}
