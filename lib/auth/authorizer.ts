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

/** The access that a client asks for in a channel. */
export type Mode = 'r' | 'w' | 'rw'

/** How often the function is called if it fails with a serialization failure or a deadlock. */
const MAX_ATTEMPTS = 5

export interface AuthorizerOptions extends SqlFunctions {
  /** How long a positive answer is cached, in milliseconds; 0: not at all. */
  authorizeTtl: number
  /** Runs one statement in a transaction of its own, as the caller. */
  call: <Row>(text: string, values: unknown[], caller: Caller) => Promise<Rows<Row>>
  /** Is called when the function itself fails. */
  onError: (error: unknown) => void
}

/** Calls `authorizeFunction` to decide whether clients may join channels and publish to them. */
export class Authorizer {
  readonly #options: AuthorizerOptions
  readonly #question: string
  /** The cache of positive answers. */
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
   * Asks the database whether a client may access all of some channels, if `authorizeFunction` is set.
   * @returns the identity with which SQL functions are called for the client; undefined if there are no functions
   * @throws NotAuthorized, RoleNotAllowed (403); DatabaseUnavailable (503)
   */
  async authorize(token: Token, channels: readonly string[], mode: Mode): Promise<Caller | undefined> {
    if (!callsFunctions(this.#options)) return undefined
    const caller = callerOf(token, this.#options.roleClaim)
    await this.#check(caller, channels, mode)
    return caller
  }

  /** Checks that a client may access all of some channels, and that the server may switch to its role. */
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

  /** Calls the function. @returns the first channel that it refuses */
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
        // A conflict with another transaction is not an answer.
        if (sqlstateOf(error).startsWith('40') && attempt < MAX_ATTEMPTS) continue
        // A function that fails does not allow access.
        onError(error.cause)
        return channels[0]
      }
    }
  }
}

/** The keys of the cache. They contain a digest of the caller's claims, because the claims may be long. */
function keysOf(caller: Caller, mode: Mode, channels: readonly string[]): string[] {
  const digest = createHash('sha256')
    .update(JSON.stringify([caller, mode]))
    .digest('base64url')
  return channels.map((channel) => `${digest} ${channel}`)
}
