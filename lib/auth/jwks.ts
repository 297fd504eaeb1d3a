import type { createRemoteJWKSet } from 'jose'
import { errors, unnamedMessageOf } from '../errors.js'
import type { Log } from '../log.js'
import { keysOfSet, type VerificationKey } from './keys.js'

/** How often the set is fetched again, so that removed keys become invalid, in milliseconds. */
const REFRESH_INTERVAL = 10 * 60_000

/** The minimum time between two fetches because of an unknown `kid`, in milliseconds. */
const COOLDOWN = 5000

export interface RemoteKeysOptions {
  url: string
  log: Log
}

/**
 * The JWK set (RFC 7517, section 5) of an identity provider, fetched by `jose`. While the provider is unavailable, the
 * last valid set is used.
 */
export class RemoteKeySet {
  readonly #log: RemoteKeysOptions['log']
  readonly #url: string
  #set: ReturnType<typeof createRemoteJWKSet> | undefined
  #timer: NodeJS.Timeout | undefined
  #refreshing: Promise<void> | undefined
  /** `performance.now()`. */
  #triedAt = Number.NEGATIVE_INFINITY
  #keys: VerificationKey[] = []

  constructor({ url, log }: RemoteKeysOptions) {
    this.#log = log
    this.#url = url
  }

  /** The public keys of the set. Other keys are ignored, because a key that anyone can fetch is not a secret. */
  get keys(): readonly VerificationKey[] {
    return this.#keys
  }

  /** Fetches the set, and again at an interval. Does not fail if the provider is unavailable. */
  async start(): Promise<void> {
    this.#timer = setInterval(() => this.#refresh(), REFRESH_INTERVAL).unref()
    await this.#refresh()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /**
   * To be called when the key of a token is not in `keys`. Fetches the set, unless that was tried a moment ago.
   * @throws KeysUnavailable (503) if no set has been fetched yet
   */
  async refreshUnknown(): Promise<void> {
    if (this.#refreshing !== undefined || performance.now() - this.#triedAt >= COOLDOWN) await this.#refresh()
    if (this.#keys.length === 0) throw new errors.KeysUnavailable()
  }

  #refresh(): Promise<void> {
    this.#refreshing ??= this.#fetch().finally(() => {
      this.#refreshing = undefined
    })
    return this.#refreshing
  }

  /** Loads `jose` only where keys are fetched, because it has 60 files, which every start would wait for. */
  async #load(): Promise<ReturnType<typeof createRemoteJWKSet>> {
    const { createRemoteJWKSet } = await import('jose')
    return createRemoteJWKSet(new URL(this.#url), { timeoutDuration: 5000 })
  }

  async #fetch(): Promise<void> {
    this.#triedAt = performance.now()
    try {
      this.#set ??= await this.#load()
      await this.#set.reload()
      this.#keys = keysOfSet(this.#set.jwks()?.keys).filter(({ publicKey }) => publicKey !== undefined)
    } catch (error) {
      this.#log.warn({ err: error }, `could not fetch the JWK set: ${unnamedMessageOf(error)}`)
    }
  }
}
