import type pg from 'pg'
import { errors } from './errors.js'
import { type Caller, quoteFunctionName, type SqlFunctions } from './sql-functions.js'

/** How many answers are remembered. */
const MAX_REMEMBERED = 10_000

/** What a client wants to do in a channel. */
export type Mode = 'r' | 'w' | 'rw'

export interface AuthorizerOptions extends Pick<SqlFunctions, 'authorizeFunction' | 'roleClaim'> {
  /** For how long an answer may be used again, in milliseconds. */
  authorizeTtl: number
  /** Runs one statement in a transaction of its own, as the caller. */
  call: (text: string, values: unknown[], caller: Caller) => Promise<{ rows: Record<string, unknown>[] }>
  /** Told where the function itself failed. */
  onError: (error: unknown) => void
}

/** Asks a function of the database's owner whether clients may join channels, and publish to them. */
export class Authorizer {
  readonly #options: AuthorizerOptions
  readonly #question: string
  /** Until when each question has been answered with yes, as `performance.now()` has it. */
  readonly #allowed = new Map<string, number>()

  constructor(options: AuthorizerOptions) {
    this.#options = options
    const { authorizeFunction } = options
    this.#question =
      authorizeFunction === undefined
        ? `select null as channel where false
           and $1::pg_catalog.text[] is null and $2::pg_catalog.text is null and $3::pg_catalog.jsonb is null`
        : `select channel from pg_catalog.unnest($1::pg_catalog.text[]) channel
           where ${quoteFunctionName(authorizeFunction)}(channel, $2, $3) is not true limit 1`
  }

  /**
   * Checks that a client may do something in all of some channels, and that its role can be taken.
   * @throws NotAuthorized, RoleNotAllowed (403); DatabaseAway (503)
   */
  async check(caller: Caller, channels: readonly string[], mode: Mode): Promise<void> {
    const { authorizeFunction, authorizeTtl, roleClaim } = this.#options
    if (authorizeFunction === undefined && roleClaim === undefined) return
    const now = performance.now()
    const keys = authorizeTtl === 0 ? [] : channels.map((channel) => JSON.stringify([caller, mode, channel]))
    if (keys.length > 0 && keys.every((key) => (this.#allowed.get(key) ?? 0) > now)) return
    const refused = await this.#ask(caller, channels, mode)
    if (refused !== undefined) throw new errors.NotAuthorized(refused)
    if (this.#allowed.size + keys.length > MAX_REMEMBERED) this.#allowed.clear()
    for (const key of keys) this.#allowed.set(key, now + authorizeTtl)
  }

  /** The first channel that is refused. */
  async #ask(caller: Caller, channels: readonly string[], mode: Mode): Promise<string | undefined> {
    const { call, onError } = this.#options
    try {
      const { rows } = await call(this.#question, [channels, mode, caller.claims], caller)
      return rows[0]?.channel as string | undefined
    } catch (error) {
      // A function that fails has not allowed it.
      if (!(error instanceof errors.NotAccepted)) throw error
      onError((error as Error).cause as pg.DatabaseError)
      return channels[0]
    }
  }
}
