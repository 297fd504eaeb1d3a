import type { Bus } from '../bus/index.js'
import { acquireAll } from './acquire-all.js'
import type { ChannelOrder } from './incoming/channel-order.js'

export interface BusChannelsOptions {
  bus: Pick<Bus, 'join' | 'leave'>
  order: ChannelOrder
  /**
   * Reads the last position in the database. A call is answered by a query that begins after it.
   * @throws if the database is unavailable
   */
  latest: () => Promise<number>
}

interface Joined {
  /** How many clients, or functions of the application, have joined it. */
  count: number
  ready: Promise<void>
}

/** Subscribes a bus to the channels that this node's clients have joined, and to no others. */
export class BusChannels {
  readonly #options: BusChannelsOptions
  readonly #joined = new Map<string, Joined>()

  constructor(options: BusChannelsOptions) {
    this.#options = options
  }

  /**
   * Joins channels.
   * @returns a promise that resolves when everything that is announced from then on arrives, with a function that ends it
   */
  join(channels: readonly string[]): Promise<() => void> {
    return acquireAll(
      channels,
      (channel) => this.#acquire(channel),
      (channel) => this.#release(channel)
    )
  }

  #acquire(channel: string): Promise<void> {
    let joined = this.#joined.get(channel)
    if (joined === undefined) {
      joined = { count: 0, ready: Promise.resolve() }
      this.#joined.set(channel, joined)
      joined.ready = this.#join(channel, joined)
      // Whoever waits for it gets the error.
      joined.ready.catch(() => {})
    }
    joined.count++
    return joined.ready
  }

  async #join(channel: string, joined: Joined): Promise<void> {
    const { bus, order, latest } = this.#options
    order.join(channel)
    await bus.join(channel)
    // If the database does not answer, the next message looks like one after a gap, and those before it are read later.
    const position = await latest().catch(() => order.floor)
    // Otherwise all clients have left in the meantime.
    if (this.#joined.get(channel) === joined) order.joined(channel, position)
  }

  #release(channel: string): void {
    const joined = this.#joined.get(channel)!
    if (--joined.count > 0) return
    this.#joined.delete(channel)
    this.#options.order.leave(channel)
    this.#options.bus.leave(channel)
  }
}
