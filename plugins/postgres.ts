import fastifyPostgres from '@fastify/postgres'
import type { FastifyInstance } from 'fastify'
import type pg from 'pg'
import { PoolConnector } from '../lib/connect.js'
import type { ConnectionTarget } from '../lib/conninfo.js'
import { errors } from '../lib/errors.js'
import { away, outcomeOf } from '../lib/outcome.js'
import { become, type Caller, LEAVE_NOTHING } from '../lib/sql-functions.js'

/** The name of our pool beside the host's: `fastify.pg.pgws`. */
const POOL_NAME = 'pgws'

/** How long a statement may take before it counts as failed, in milliseconds. */
const STATEMENT_DEADLINE = 5000

/** How long a function of the database's owner may take, in milliseconds: less, so that PostgreSQL says so itself. */
const FUNCTION_DEADLINE = 4000

/** Runs one statement; rejects as BridgeOptions.query. */
export type Query = (text: string, values?: unknown[]) => Promise<pg.QueryResult>

/**
 * Runs one statement that calls functions of the database's owner, in a transaction of its own.
 * @param caller as whom; undefined: the statement sees to that itself
 * @throws as Query does, where OutcomeUnknown is left to a commit that was not answered; RoleNotAllowed
 */
export type Call = (text: string, values: unknown[], caller?: Caller) => Promise<pg.QueryResult>

export interface Pool {
  query: Query
  call: Call
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
  const connector = new PoolConnector(targets)
  await fastify.register(fastifyPostgres, {
    name: POOL_NAME,
    Client: connector.Client,
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
      const client = await connector.acquire(pool)
      if ((client as unknown as { [kGeneration]: number })[kGeneration] === generation) return client
      client.release(true)
    }
  }

  async function acquireOrThrow(): Promise<pg.PoolClient> {
    try {
      return await acquireCurrent()
    } catch (error) {
      throw away(error)
    }
  }

  return {
    recycle() {
      generation++
    },
    async call(text, values, caller) {
      const client = await acquireOrThrow()
      let stage: 'begun' | 'become' | 'committing' = 'become'
      try {
        await client.query(
          `begin; set local statement_timeout = ${FUNCTION_DEADLINE}${caller ? `; ${become(caller)}` : ''}`
        )
        stage = 'begun'
        const result = await client.query(text, values)
        stage = 'committing'
        await client.query(caller ? `${LEAVE_NOTHING}; commit` : 'commit')
        client.release()
        return result
      } catch (error) {
        const classified = outcomeOf(error)
        if (!(classified instanceof errors.NotAccepted)) {
          client.release(true)
          generation++
          // Nothing is committed before we ask for it.
          throw stage === 'committing' ? classified : away(error)
        }
        // Session locks outlive the rollback.
        client.query('rollback; select pg_catalog.pg_advisory_unlock_all()').then(
          () => client.release(),
          () => client.release(true)
        )
        throw stage === 'become' && caller?.role !== undefined ? new errors.RoleNotAllowed() : classified
      }
    },
    async query(text, values) {
      const client = await acquireOrThrow()
      try {
        const result = await client.query(text, values)
        client.release()
        return result
      } catch (error) {
        // What a failed statement leaves behind, or one that is still running, is not for the next.
        client.release(true)
        const classified = outcomeOf(error)
        // The others took the same way; each would cost its deadline.
        if (classified instanceof errors.OutcomeUnknown) generation++
        throw classified
      }
    }
  }
}
