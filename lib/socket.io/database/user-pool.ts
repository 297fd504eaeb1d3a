import pg from 'pg'
import { asError, errors, messageOf } from '../../errors.js'
import { failureOf } from '../../postgres/index.js'

/** How long a connection, or a statement, may take, in milliseconds: so many ticks. */
const DEADLINE = 5000
const TICK = 500

/**
 * Runs one statement on a pool of the user's, in time.
 * @throws DatabaseUnavailable: nothing was done; OutcomeUnknown; NotAccepted
 */
export async function queryPool(
  pool: pg.Pool,
  text: string,
  values: unknown[] = []
): Promise<pg.QueryResult> {
  // It will never give a connection again: nothing to wait for.
  if (pool.ending) throw new errors.NotAccepted('the pool has ended')
  let client: pg.PoolClient
  try {
    client = await within(pool.connect(), (late) => late.release())
  } catch (error) {
    throw new errors.DatabaseUnavailable(messageOf(error))
  }
  // A client that is checked out has no other listener, and an error that nobody hears ends the process.
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

const guarded = new WeakSet<pg.Pool>()

/**
 * Sees to it that no connection of a pool ends the process by an error that nobody hears: one that is lost between being
 * connected and being used has no listener yet.
 */
export function guardPool(pool: pg.Pool): void {
  if (guarded.has(pool)) return
  guarded.add(pool)
  pool.on('connect', (client) => client.on('error', ignore))
}

/** A statement that the database answered with an error was rolled back; one without an answer may have committed. */
export function classify(error: unknown): Error {
  switch (failureOf(error)) {
    case 'unanswered':
      return new errors.OutcomeUnknown(messageOf(error))
    case 'away':
      return new errors.DatabaseUnavailable(messageOf(error))
    default:
      return new errors.NotAccepted(messageOf(error), { cause: asError(error) })
  }
}

/**
 * Rejects when a promise takes too long. Time is counted in ticks, because a server that is busy for seconds reads an
 * answer late that came in time.
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
 * A connection of its own to where a pool leads, for a listener.
 * @throws Error where it cannot be made
 */
export async function connectLike(pool: pg.Pool): Promise<pg.Client> {
  // The class that its connections have, which the types do not tell.
  const { options, Client = pg.Client } = pool as pg.Pool & { Client?: typeof pg.Client }
  const client = new Client({
    connectionTimeoutMillis: 5000,
    application_name: 'fastify-pg-websockets socket.io listener',
    ...options,
    // pg-pool hides it from copies.
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
