import pg from 'pg'
import { asError, errors, messageOf } from '../../errors.js'
import { failureOf } from '../../postgres/index.js'

/** How long a connection or a statement may take, in milliseconds. It is counted in ticks (see `within`). */
const DEADLINE = 5000
const TICK = 500

/**
 * Runs one statement on the user's pool, within the deadline.
 * @throws DatabaseUnavailable: the statement was not run; OutcomeUnknown; NotAccepted
 */
export async function queryPool(
  pool: pg.Pool,
  text: string,
  values: unknown[] = []
): Promise<pg.QueryResult> {
  // It will never provide a connection again, so waiting is of no use.
  if (pool.ending) throw new errors.NotAccepted('the pool has ended')
  let client: pg.PoolClient
  try {
    client = await within(pool.connect(), (late) => late.release())
  } catch (error) {
    throw new errors.DatabaseUnavailable(messageOf(error))
  }
  // Before the statement, so that the refusal does not count as one without an answer.
  try {
    refuseNative(client)
  } catch (error) {
    client.release()
    throw error
  }
  // A checked-out client has no other listener, and an 'error' event without a listener ends the process.
  client.on('error', ignore)
  try {
    const result = await within(client.query(text, values))
    client.off('error', ignore)
    client.release()
    return result
  } catch (error) {
    const failure = classify(error)
    const broken = !(failure instanceof errors.NotAccepted)
    if (!broken) client.off('error', ignore)
    client.release(broken)
    throw failure
  }
}

function ignore(): void {}

/**
 * Refuses a client of `pg.native`, which would convert the binary arrays of `publishStatement` to texts.
 * @throws NotAccepted
 */
export function refuseNative(client: pg.ClientBase): void {
  if ('native' in client) {
    throw new errors.NotAccepted('pg.native cannot be used: pass a pool or client of "pg" itself')
  }
}

const guarded = new WeakSet<pg.Pool>()

/**
 * Prevents connections of a pool from ending the process with an 'error' event. A connection has no listener of its own
 * if it is lost after it has been made and before it is used.
 */
export function guardPool(pool: pg.Pool): void {
  if (guarded.has(pool)) return
  guarded.add(pool)
  pool.on('connect', (client) => client.on('error', ignore))
}

/** Classifies a failure. If the database answered with an error, it rolled back. If it did not answer, it may have committed. */
export function classify(error: unknown): Error {
  switch (failureOf(error)) {
    case 'unanswered':
      return new errors.OutcomeUnknown(messageOf(error))
    case 'unavailable':
      return new errors.DatabaseUnavailable(messageOf(error))
    default:
      return new errors.NotAccepted(messageOf(error), { cause: asError(error) })
  }
}

/**
 * Rejects when a promise takes too long. Time is counted in ticks of a timer, because a process that is busy for seconds
 * reads an answer late although it came in time.
 * @param onLate is called with a value that comes after the rejection
 */
function within<Value>(promise: Promise<Value>, onLate?: (value: Value) => void): Promise<Value> {
  return new Promise((resolve, reject) => {
    let ticks = 0
    const timer = setInterval(() => {
      if (++ticks < DEADLINE / TICK) return
      clearInterval(timer)
      reject(new Error(`the database did not answer within ${DEADLINE} ms`))
    }, TICK).unref()
    promise.then(
      (value) => {
        clearInterval(timer)
        if (ticks >= DEADLINE / TICK) onLate?.(value)
        else resolve(value)
      },
      (error) => {
        clearInterval(timer)
        reject(error)
      }
    )
  })
}

/**
 * Connects a client with the options of a pool, but outside of it, for a listener.
 * @throws Error if the connection fails
 */
export async function connectLike(pool: pg.Pool): Promise<pg.Client> {
  // The class of its connections. The types do not declare this property.
  const { options, Client = pg.Client } = pool as pg.Pool & { Client?: typeof pg.Client }
  const client = new Client({
    connectionTimeoutMillis: 5000,
    application_name: 'fastify-pg-websockets socket.io listener',
    ...options,
    // pg-pool makes this property non-enumerable, so the spread above does not copy it.
    password: options.password,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000
  })
  client.on('error', () => {})
  try {
    await client.connect()
  } catch (error) {
    client.end().catch(() => {})
    throw error
  }
  return client
}
