import { createHash } from 'node:crypto'
import { errors, sqlstateOf } from '../errors.js'
import type { Rows } from '../postgres/index.js'
import { textCache } from '../text-cache.js'
import type { Token } from './claims.js'
import {
  type Caller,
  callerOf,
  callsFunctions,
  quoteFunctionName,
  type SqlFunctions
} from './owner-functions.js'

/** What a client wants to do in a channel. */
export type Mode = 'r' | 'w' | 'rw'

/** How often a question is asked that fails with a conflict of transactions. */
const MAX_ATTEMPTS = 5

export interface AuthorizerOptions extends SqlFunctions {
  /** For how long an answer may be used again, in milliseconds. */
  authorizeTtl: number
  /** Runs one statement in a transaction of its own, as the caller. */
  call: <Row>(text: string, values: unknown[], caller: Caller) => Promise<Rows<Row>>
  /** Told where the function itself failed. */
  onError: (error: unknown) => void
}

/** Asks a function of the database's owner whether clients may join channels, and publish to them. */
export class Authorizer {
  readonly #options: AuthorizerOptions
  readonly #question: string
  /** The questions that have been answered with yes. */
  readonly #allowed: ReturnType<typeof textCache<true>>

  constructor(options: AuthorizerOptions) {
    this.#options = options
    const { authorizeFunction, authorizeTtl } = options
    this.#allowed = textCache(authorizeTtl)
    this.#question =
      authorizeFunction === undefined
        ? `select null as channel where false
           and $1::pg_catalog.text[] is null and $2::pg_catalog.text is null and $3::pg_catalog.jsonb is null`
        : `select channel from pg_catalog.unnest($1::pg_catalog.text[]) channel
           where ${quoteFunctionName(authorizeFunction)}(channel, $2, $3) is not true limit 1`
  }

  /**
   * Asks the database whether a client may do something in all of some channels, where a function for that is set.
   * @returns as whom functions are called for it; undefined where none is set
   * @throws NotAuthorized, RoleNotAllowed (403); DatabaseUnavailable (503)
   */
  async authorize(token: Token, channels: readonly string[], mode: Mode): Promise<Caller | undefined> {
    if (!callsFunctions(this.#options)) return undefined
    const caller = callerOf(token, this.#options.roleClaim)
    await this.#check(caller, channels, mode)
    return caller
  }

  /** Checks that a client may do something in all of some channels, and that its role can be taken. */
  async #check(caller: Caller, channels: readonly string[], mode: Mode): Promise<void> {
    const { authorizeFunction, authorizeTtl, roleClaim } = this.#options
    if (authorizeFunction === undefined && roleClaim === undefined) return
    const now = performance.now()
    const keys = authorizeTtl === 0 ? [] : keysOf(caller, mode, channels)
    if (keys.length > 0 && keys.every((key) => this.#allowed.has(key))) return
    const refused = await this.#ask(caller, channels, mode)
    if (refused !== undefined) throw new errors.NotAuthorized(refused)
    for (const key of keys) this.#allowed.set(key, true, { start: now })
  }

  /** The first channel that is refused. */
  async #ask(caller: Caller, channels: readonly string[], mode: Mode): Promise<string | undefined> {
    const { call, onError } = this.#options
    for (let attempt = 1; ; attempt++) {
      try {
        const { rows } = await call<{ channel: string }>(
          this.#question,
          [channels, mode, caller.claims],
          caller
        )
        return rows[0]?.channel
      } catch (error) {
        if (!(error instanceof errors.NotAccepted)) throw error
        // A conflict with another transaction is no answer.
        if (sqlstateOf(error).startsWith('40') && attempt < MAX_ATTEMPTS) continue
        // A function that fails has not allowed it.
        onError(error.cause)
        return channels[0]
      }
    }
  }
}

/** What answers are remembered by. A caller's claims may be long, so that their digest stands for them. */
function keysOf(caller: Caller, mode: Mode, channels: readonly string[]): string[] {
  const digest = createHash('sha256')
    .update(JSON.stringify([caller, mode]))
    .digest('base64url')
  return channels.map((channel) => `${digest} ${channel}`)
}
