import pg from 'pg'
import type { ConnectionTarget, SessionAttrs } from './conninfo.js'
import { messageOf } from './errors.js'

/**
 * Connects to the first target that takes us. As libpq, a host that refuses the login ends the search.
 * @param targets made by parseConninfo
 * @param overrides what all of them share: `application_name` and the like
 * @throws Error with the reason of the last failure
 */
export async function connect(
  targets: readonly ConnectionTarget[],
  overrides: pg.ClientConfig = {}
): Promise<pg.Client> {
  let failure: Error | undefined
  for (const target of targets) {
    if (target.fallback && !isTlsFailure(failure)) continue
    const client = new pg.Client({ ...target.config, ...overrides })
    // An error that nobody hears would end the process.
    client.on('error', () => {})
    try {
      await client.connect()
      await checkSession(client, target.sessionAttrs)
      return client
    } catch (error) {
      client.end().catch(() => {})
      failure = describe(error, target)
      if (isLoginRefusal(error) && !targets[targets.indexOf(target) + 1]?.fallback) throw failure
    }
  }
  throw failure ?? new Error('there is no host to connect to')
}

/**
 * The class of client for a pool that tries all targets: each client takes the target that worked last, and a
 * failure moves on to the next.
 */
export function clientClass(targets: readonly ConnectionTarget[]): typeof pg.Client {
  let current = 0
  return class TargetClient extends pg.Client {
    readonly #target: number

    constructor(config?: pg.ClientConfig) {
      const { config: own } = targets[current]!
      super({ ...config, ...own })
      this.#target = current
    }

    override connect(): Promise<pg.Client>
    override connect(callback: (error: Error) => void): void
    override connect(callback?: (error: Error) => void): Promise<pg.Client> | void {
      const connected = super.connect().then(async () => {
        try {
          await checkSession(this as pg.Client, targets[this.#target]!.sessionAttrs)
        } catch (error) {
          this.end().catch(() => {})
          throw error
        }
      })
      const settled = connected.then(
        () => this as pg.Client,
        (error) => {
          // Others that failed at the same time must not move on twice.
          if (current === this.#target) current = (current + 1) % targets.length
          throw describe(error, targets[this.#target]!)
        }
      )
      if (callback === undefined) return settled
      settled.then(
        () => (callback as (error?: Error) => void)(),
        (error) => callback(error)
      )
    }
  } as unknown as typeof pg.Client
}

/**
 * Takes a client from a pool whose clients are of `clientClass`, trying every target once.
 * @throws Error where none can be reached
 */
export async function acquire(pool: pg.Pool, targets: readonly ConnectionTarget[]): Promise<pg.PoolClient> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await pool.connect()
    } catch (error) {
      if (attempt >= targets.length) throw error
    }
  }
}

/** target_session_attrs (libpq-connect.html) */
async function checkSession(client: pg.Client, wanted: SessionAttrs): Promise<void> {
  if (wanted === 'any') return
  const { rows } = await client.query<{ standby: boolean; readonly: boolean }>(
    "select pg_catalog.pg_is_in_recovery() as standby, pg_catalog.current_setting('transaction_read_only')::boolean as readonly"
  )
  const { standby, readonly } = rows[0]!
  const fits = { primary: !standby, standby, 'read-write': !readonly, 'read-only': readonly }[wanted]
  if (!fits) throw new Error(`the session is not ${wanted}`)
}

function describe(error: unknown, { name }: ConnectionTarget): Error {
  return new Error(`connection to ${name} failed: ${messageOf(error)}`, { cause: error })
}

/** Class 28: invalid authorization. */
function isLoginRefusal(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code?.startsWith('28') === true
}

/** A server without TLS answers `N`; one that wants TLS, or whose TLS fails, is worth the other attempt, too. */
function isTlsFailure(failure: Error | undefined): boolean {
  const error = failure?.cause
  if (error instanceof pg.DatabaseError) return true
  const code = (error as NodeJS.ErrnoException | undefined)?.code ?? ''
  return /SSL|TLS|CERT/i.test(`${messageOf(error)} ${code}`)
}
