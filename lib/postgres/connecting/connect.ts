import type { EventEmitter } from 'node:events'
import pg from 'pg'
import { asError, codeOf, messageOf } from '../../errors.js'
import type { ConnectionTarget, SessionAttrs } from './connection-targets.js'

/**
 * Connects to the first target that accepts the connection. As in libpq, a host that refuses the login ends the search.
 * @param targets made by parseConninfo
 * @param overrides settings for all of them, such as `application_name`
 * @throws Error with the reason of the last failure
 */
export async function connect(
  targets: readonly ConnectionTarget[],
  overrides: pg.ClientConfig = {}
): Promise<pg.Client> {
  let failure: Error | undefined
  for (const [index, target] of targets.entries()) {
    if (target.fallback && !mayFallBack(failure?.cause, targets[index - 1]!)) continue
    const client = new pg.Client({ ...target.config, ...overrides })
    // Without a listener, the error would end the process.
    client.on('error', () => {})
    const checkBinding = watchBinding(client, target)
    try {
      await client.connect()
      checkBinding()
      await checkSession(client, target.sessionAttrs)
      return client
    } catch (error) {
      client.end().catch(() => {})
      failure = describe(error, target)
      if (isLoginRefusal(error) && !hasFallback(targets, index, error)) throw failure
    }
  }
  throw failure ?? new Error('the connection string names no host')
}

interface Destroyable {
  destroy(): void
}

/**
 * Connects the clients of a pool, each first to the host that worked last. As in libpq, a TLS failure matters for its own
 * attempt only, and a host that refuses the login ends the search.
 */
export class PoolConnector {
  /** The class of the pool's clients. */
  readonly Client: typeof pg.Client
  readonly #targets: readonly ConnectionTarget[]
  readonly #hosts: number
  /** The first target of the host that worked last. */
  #current = 0
  /** The target for the next clients, if it is not the preferred one. */
  readonly #fallbacks: { target: number }[] = []
  /** The sockets of attempts in progress. */
  readonly #connecting = new Set<Destroyable>()
  #closed = false
  /** The target at which an attempt failed. */
  readonly #failed = new WeakMap<object, number>()

  constructor(targets: readonly ConnectionTarget[]) {
    this.#targets = targets
    this.#hosts = targets.filter(({ fallback }) => !fallback).length
    this.Client = this.#clientClass()
  }

  /**
   * Takes a client from a pool. Tries every host once.
   * @param pool a pool whose clients are of the class `Client`
   * @throws Error if no host can be reached
   */
  async acquire(pool: pg.Pool): Promise<pg.PoolClient> {
    let fallback: { target: number } | undefined
    for (let attempt = 1, hosts = 0; ; attempt++) {
      try {
        if (fallback !== undefined) this.#fallbacks.push(fallback)
        return await pool.connect()
      } catch (error) {
        const failure = asError(error)
        const { cause } = failure
        const failed = this.#failed.get(failure)
        const again = failed !== undefined && hasFallback(this.#targets, failed, cause)
        if (!again && (++hosts >= this.#hosts || isLoginRefusal(cause))) throw error
        // Concurrent attempts may move the target, so there are more attempts than targets.
        if (attempt >= 2 * this.#targets.length) throw error
        fallback = again ? { target: failed + 1 } : undefined
      } finally {
        // A client that was idle has done.
        const index = this.#fallbacks.indexOf(fallback!)
        if (index !== -1) this.#fallbacks.splice(index, 1)
      }
    }
  }

  /** Aborts the attempts in progress, because the end of the pool would wait for them, and refuses new ones. */
  close(): void {
    this.#closed = true
    for (const socket of this.#connecting) socket.destroy()
  }

  #clientClass(): typeof pg.Client {
    const connector = this
    return class TargetClient extends pg.Client {
      readonly #target: number

      constructor(config?: pg.ClientConfig) {
        const target = connector.#fallbacks.shift()?.target ?? connector.#current
        super({ ...config, ...connector.#targets[target]!.config })
        this.#target = target
        // The pool listens for errors of idle clients only. Others would end the process.
        this.on('error', () => {})
      }

      override connect(): Promise<pg.Client>
      override connect(callback: (error?: Error) => void): void
      override connect(callback?: (error?: Error) => void): Promise<pg.Client> | void {
        const settled = this.#connect()
        if (callback === undefined) return settled
        settled.then(
          () => callback(),
          (error) => callback(error)
        )
      }

      async #connect(): Promise<pg.Client> {
        const { connection }: { connection: { stream: Destroyable } } = this
        // With TLS, another socket wraps it, and ends with it.
        const socket = connection.stream
        const target = connector.#targets[this.#target]!
        if (connector.#closed) throw new Error('the server is shutting down')
        connector.#connecting.add(socket)
        const checkBinding = watchBinding(this, target)
        try {
          await super.connect()
          checkBinding()
          await checkSession(this, target.sessionAttrs)
          return this
        } catch (error) {
          this.end().catch(() => {})
          throw connector.#noteFailure(error, this.#target)
        } finally {
          connector.#connecting.delete(socket)
        }
      }
    }
  }

  /** Chooses the target for the next client after a failure. */
  #noteFailure(error: unknown, target: number): Error {
    const described = describe(error, this.#targets[target]!)
    this.#failed.set(described, target)
    if (hasFallback(this.#targets, target, error)) return described
    const host = this.#targets[target]!.fallback ? target - 1 : target
    // Attempts that failed at the same time must not skip a target.
    if (this.#current === host) {
      const next = this.#targets.findIndex(({ fallback }, i) => i > host && !fallback)
      this.#current = Math.max(next, 0)
    }
    return described
  }
}

/**
 * Implements channel_binding=require (libpq-connect.html). node-postgres uses channel binding if the server offers it, but
 * does not report whether it did.
 * @returns a function to call when the client is connected; it throws if channel binding was not used
 */
function watchBinding(client: pg.Client, { requiresChannelBinding }: ConnectionTarget): () => void {
  let offered = !requiresChannelBinding
  const { connection }: { connection: EventEmitter } = client
  connection.once('authenticationSASL', ({ mechanisms }: { mechanisms: string[] }) => {
    offered ||= mechanisms.includes('SCRAM-SHA-256-PLUS')
  })
  return () => {
    if (offered) return
    throw new Error(
      'channel_binding=require: the server did not use channel binding. Remove channel_binding, or set sslmode=require and a password that PostgreSQL stores as scram-sha-256'
    )
  }
}

/** target_session_attrs (libpq-connect.html) */
async function checkSession(client: pg.Client, wanted: SessionAttrs): Promise<void> {
  if (wanted === 'any') return
  const { rows } = await client.query<{ standby: boolean; readonly: boolean }>(
    "select pg_catalog.pg_is_in_recovery() as standby, pg_catalog.current_setting('transaction_read_only')::boolean as readonly"
  )
  const { standby, readonly } = rows[0]!
  const hasWantedRole = { primary: !standby, standby, 'read-write': !readonly, 'read-only': readonly }[wanted]
  if (!hasWantedRole) throw new Error(`the session is not ${wanted}`)
}

function describe(error: unknown, { name }: ConnectionTarget): Error {
  return new Error(`connection to ${name} failed: ${messageOf(error)}`, { cause: error })
}

/** Class 28: invalid authorization. */
function isLoginRefusal(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code?.startsWith('28') === true
}

/** Whether to try the same host again, with or without TLS. */
function hasFallback(targets: readonly ConnectionTarget[], index: number, error: unknown): boolean {
  return targets[index + 1]?.fallback === true && mayFallBack(error, targets[index]!)
}

/** The error of node-postgres for the answer `N` to an SSLRequest (protocol-flow.html#PROTOCOL-FLOW-SSL). */
const NO_TLS = 'The server does not support SSL connections'

/**
 * The failures after which libpq retries `prefer` without TLS, and `allow` with it (libpq-ssl.html): the server has no TLS,
 * the TLS handshake fails, or pg_hba.conf refuses this kind of connection. No other failure leads to plaintext, neither a
 * wrong password nor an unavailable network or server.
 */
function mayFallBack(error: unknown, { config: { ssl } }: ConnectionTarget): boolean {
  const code = codeOf(error) ?? ''
  const message = messageOf(error)
  // pg_hba.conf has no entry for this user, database and kind of connection (errcodes-appendix.html).
  if (error instanceof pg.DatabaseError) return code === '28000'
  if (!ssl) return false
  // For a connection that breaks during the handshake, Node.js has no code, only this message.
  return message === NO_TLS || /^(?:ERR_SSL|ERR_TLS|EPROTO)/.test(code) || /before secure TLS/.test(message)
}
