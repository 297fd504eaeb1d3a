import { matchesPattern } from '../channel-pattern.js'
import { errors } from '../errors.js'
import { databaseChannelProblem, isOwnChannel } from '../postgres/index.js'
import { acquireAll } from './acquire-all.js'

/** Listens to a database channel now; see Listener.listen. */
type Listen = (channel: string, handler: (payload: string) => void) => Promise<() => Promise<void>>

export interface RawChannelsOptions {
  patterns: readonly string[] | undefined
  /** Never a raw channel, because its notifications are envelopes. */
  listenChannel: string
  /** Never a raw channel, because the server publishes its own events there. */
  metaChannel: string | undefined
  listen: Listen
  deliver: (channel: string, payload: string) => void
}

interface Listening {
  count: number
  stop: Promise<() => Promise<void>>
}

/**
 * Channels that are database channels of the same name. The server listens to one while at least one client has joined
 * it, and payloads pass unchanged.
 */
export class RawChannels {
  readonly #options: RawChannelsOptions
  readonly #listening = new Map<string, Listening>()

  constructor(options: RawChannelsOptions) {
    this.#options = options
  }

  /** Whether a channel is a raw channel. */
  has(channel: string): boolean {
    const { patterns, listenChannel, metaChannel } = this.#options
    if (patterns === undefined || isOwnChannel(channel)) return false
    if (channel === listenChannel || channel === metaChannel) return false
    return patterns.some((pattern) => matchesPattern(pattern, channel))
  }

  /**
   * Listens to the raw channels among some channels.
   * @returns a promise that resolves when LISTEN has committed, with a function that ends it; undefined if none of the
   *   channels is raw
   * @throws BadAddress (400) for a name that PostgreSQL does not allow, ChannelRefused (400) for one that this database
   *   refuses, ListenerUnavailable (503)
   */
  async join(channels: readonly string[]): Promise<(() => void) | undefined> {
    if (this.#options.patterns === undefined) return undefined
    const raw = channels.filter((channel) => this.has(channel))
    if (raw.length === 0) return undefined
    for (const channel of raw) {
      const problem = databaseChannelProblem(channel)
      if (problem !== undefined) throw new errors.BadAddress(problem)
    }
    return acquireAll(
      raw,
      (channel) => this.#acquire(channel),
      (channel) => this.#release(channel)
    )
  }

  #acquire(channel: string): Promise<unknown> {
    let listening = this.#listening.get(channel)
    if (listening === undefined) {
      const { listen, deliver } = this.#options
      const stop = listen(channel, (payload) => deliver(channel, payload))
      listening = { count: 0, stop }
      this.#listening.set(channel, listening)
    }
    listening.count++
    return listening.stop
  }

  #release(channel: string): void {
    const listening = this.#listening.get(channel)!
    if (--listening.count > 0) return
    this.#listening.delete(channel)
    listening.stop.then((stop) => stop()).catch(() => {})
  }
}
