import type { createRemoteJWKSet } from 'jose'
import { errors, messageOf } from '../errors.js'
import type { Log } from '../log.js'
import { keysOfSet, type VerificationKey } from './keys.js'

/** How often the set is fetched again, so that keys that were taken out end, in milliseconds. */
const REFRESH_INTERVAL = 10 * 60_000

/** An unknown `kid` fetches the set at most so often. */
const COOLDOWN = 5000

export interface RemoteKeysOptions {
  url: string
  log: Log
}

/**
 * The JWK set (RFC 7517, section 5) of an identity provider, fetched by `jose`. The last good set serves while the
 * provider is away.
 */
export class RemoteKeySet {
  readonly #log: RemoteKeysOptions['log']
  readonly #url: string
  #set: ReturnType<typeof createRemoteJWKSet> | undefined
  #timer: NodeJS.Timeout | undefined
  #refreshing: Promise<void> | undefined
  /** As `performance.now()` has it. */
  #triedAt = Number.NEGATIVE_INFINITY
  #keys: VerificationKey[] = []

  constructor({ url, log }: RemoteKeysOptions) {
    this.#log = log
    this.#url = url
  }

  /** Public keys only: what everyone can fetch can be nobody's secret. */
  get keys(): readonly VerificationKey[] {
    return this.#keys
  }

  /** Fetches the set, and again at an interval. Without a provider it starts all the same. */
  async start(): Promise<void> {
    this.#timer = setInterval(() => this.#refresh(), REFRESH_INTERVAL).unref()
    await this.#refresh()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /**
   * To be called when a token's key is not among `keys`: fetches the set, if that was not tried just now.
   * @throws KeysUnavailable (503) while none was ever fetched
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
      this.#log.warn({ err: error }, `could not fetch the JWK set: ${messageOf(error)}`)
    }
  }
}
