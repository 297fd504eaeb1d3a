import { setTimeout as sleep } from 'node:timers/promises'
import fastifyPostgres from '@fastify/postgres'
import type { FastifyInstance } from 'fastify'
import pg from 'pg'
import { become, type Caller, LEAVE_NOTHING } from '../lib/auth/index.js'
import { errors } from '../lib/errors.js'
import {
  type ConnectionTarget,
  functionOutcomeOf,
  isTemporary,
  outcomeOf,
  type PgQuery,
  PoolConnector,
  type SessionSettings,
  settingsOf,
  unavailable
} from '../lib/postgres/index.js'

/** How long a statement may take, in milliseconds, and how much earlier PostgreSQL itself cancels it. */
const STATEMENT_DEADLINE = 5000
const MARGIN = 1000

/** How long an SQL function may take, in milliseconds. */
const FUNCTION_DEADLINE = STATEMENT_DEADLINE - MARGIN

/**
 * Runs one statement that calls SQL functions, in a transaction of its own.
 * @param caller the identity to switch to; undefined: the statement does that itself
 * @throws as PgQuery, but OutcomeUnknown only for an unanswered commit; RoleNotAllowed
 */
export type Call = (text: string, values: unknown[], caller?: Caller) => Promise<pg.QueryResult>

export interface Pool {
  query: PgQuery
  call: Call
  /** Replaces all current connections: idle ones at once, others after their statement. */
  recycle: () => void
}

/** How long to wait before a statement is retried after a temporary obstacle, in milliseconds. */
const PAUSES = [10, 40, 160]

/** How long a read-only session is used, in milliseconds, because a new session may be allowed to write. */
const READ_ONLY_LIFE = 1000

/** The state of a connection of the pool. */
interface Session {
  readonly generation: number
  readonly connectedAt: number
  settings?: SessionSettings
}

export interface PoolOptions {
  /** What its connections do. It is part of the pool's name and of their `application_name` in pg_stat_activity. */
  purpose: 'publisher' | 'sequencer'
  /** The maximum number of connections. */
  size: number
  /** How long a statement may take, in milliseconds. */
  deadline?: number
}

/**
 * Registers @fastify/postgres with a pool that does not conflict with the host's: `fastify.pg['pgws publisher']`.
 * @param targets where to connect, in the order to try
 * @returns the pool, which is closed with the instance
 */
export async function registerPool(
  fastify: FastifyInstance,
  targets: ConnectionTarget[],
  { purpose, size, deadline = STATEMENT_DEADLINE }: PoolOptions
): Promise<Pool> {
  const name = `pgws ${purpose}`
  const connector = new PoolConnector(targets)
  await fastify.register(fastifyPostgres, {
    name,
    Client: connector.Client,
    max: size,
    application_name: `fastify-pg-websockets ${purpose}`,
    keepAlive: true,
    connectionTimeoutMillis: STATEMENT_DEADLINE,
    query_timeout: deadline
  })
  // onClose hooks run in reverse order, so this runs before the pool is closed.
  const { pool } = fastify.pg[name]!
  const busy = new Set<pg.ClientBase>()
  fastify.addHook('onClose', async () => {
    connector.close()
    // A round is one transaction: whatever becomes of it, another node continues. Its deadline is long.
    // The types of a pool's client lack `end`.
    if (purpose === 'sequencer') for (const client of busy) (client as pg.Client).end().catch(() => {})
  })
  pool.on('acquire', (client) => busy.add(client))
  pool.on('release', (_error, client) => busy.delete(client))
  // The next query replaces an idle connection that broke. Without a listener, its error would end the process.
  pool.on('error', (error) => {
    fastify.log.warn({ err: error }, 'a publishing connection was lost')
  })
  let generation = 0
  const sessions = new WeakMap<pg.Client, Session>()
  pool.on('connect', (client) => {
    const session: Session = { generation, connectedAt: performance.now() }
    sessions.set(client, session)
  })

  async function acquireCurrent(): Promise<pg.PoolClient> {
    for (;;) {
      const client = await connector.acquire(pool)
      const { settings, connectedAt, generation: own } = sessions.get(client)!
      const stale = settings?.readOnly === true && performance.now() - connectedAt > READ_ONLY_LIFE
      if (own === generation && !stale) return client
      client.release(true)
    }
  }

  async function acquireOrThrow(): Promise<pg.PoolClient> {
    try {
      return await acquireCurrent()
    } catch (error) {
      throw unavailable(error)
    }
  }

  /** The settings of a session, which are read once for each connection. */
  async function settingsFor(client: pg.PoolClient): Promise<SessionSettings> {
    const session = sessions.get(client)!
    session.settings ??= await settingsOf(client, deadline - MARGIN)
    return session.settings
  }

  async function once(text: string, values: unknown[] | undefined): Promise<pg.QueryResult> {
    const client = await acquireOrThrow()
    // A single statement commits when it ends.
    let stage: 'preparing' | 'committing' = 'preparing'
    try {
      const { begin } = await settingsFor(client)
      if (begin === undefined) stage = 'committing'
      else await client.query(begin)
      const result = await client.query(text, values)
      stage = 'committing'
      if (begin !== undefined) await client.query('commit')
      client.release()
      return result
    } catch (error) {
      // The session may be in a bad state, or still running the statement. Do not reuse it.
      client.release(true)
      const classified = outcomeOf(error)
      if (!(classified instanceof errors.OutcomeUnknown)) throw classified
      // The other connections probably broke, too, and each would cost a deadline.
      generation++
      throw stage === 'committing' ? classified : unavailable(error)
    }
  }

  return {
    recycle() {
      generation++
    },
    async call(text, values, caller) {
      const client = await acquireOrThrow()
      let stage: 'beginning' | 'running' | 'committing' = 'beginning'
      try {
        await client.query(beginCall(await settingsFor(client), caller))
        stage = 'running'
        const result = await client.query(text, values)
        stage = 'committing'
        await client.query(caller ? `${LEAVE_NOTHING}; commit` : 'commit')
        client.release()
        return result
      } catch (error) {
        // A function itself may have caused a temporary obstacle.
        const classified = error instanceof pg.DatabaseError ? functionOutcomeOf(error) : outcomeOf(error)
        if (!(classified instanceof errors.NotAccepted)) {
          client.release(true)
          generation++
          // Nothing is committed before the commit is sent.
          throw stage === 'committing' ? classified : unavailable(error)
        }
        // Session locks outlive the rollback.
        client.query('rollback; select pg_catalog.pg_advisory_unlock_all()').then(
          () => client.release(),
          () => client.release(true)
        )
        throw stage === 'beginning' && caller?.role !== undefined ? new errors.RoleNotAllowed() : classified
      }
    },
    async query(text, values) {
      const startedAt = performance.now()
      for (const pause of PAUSES) {
        try {
          return await once(text, values)
        } catch (error) {
          if (!isTemporary(error) || performance.now() - startedAt > STATEMENT_DEADLINE) throw error
          await sleep(pause * (0.5 + Math.random()))
        }
      }
      return once(text, values)
    }
  }
}

/** The statements that begin a transaction for function calls. The time limit is that of the role, if it is shorter. */
function beginCall({ statementTimeout }: SessionSettings, caller: Caller | undefined): string {
  const limit = Math.min(statementTimeout || FUNCTION_DEADLINE, FUNCTION_DEADLINE)
  return [
    'begin',
    `set local statement_timeout = ${limit}`,
    // This process may be busy between two statements, so the session must not time out.
    'set local idle_in_transaction_session_timeout = 0',
    ...(caller ? [become(caller)] : [])
  ].join('; ')
}
