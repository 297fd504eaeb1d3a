import { isPublicChannel } from './audience-channels.js'
import type { BusChannels } from './bus-channels.js'
import type { RawChannels } from './raw-channels.js'

/** What this node has to ask for, so that messages of the channels that its clients read arrive here. */
export class ListenedChannels {
  readonly #raw: RawChannels
  readonly #bus: BusChannels | undefined

  /** @param bus undefined: all messages but those of raw channels arrive anyway */
  constructor(raw: RawChannels, bus: BusChannels | undefined) {
    this.#raw = raw
    this.#bus = bus
  }

  /**
   * Joins a channel for a function of the application. Its messages arrive soon.
   * @returns a function that ends it; undefined if there is nothing to end. Raw channels are left to their clients.
   */
  follow(channel: string): (() => void) | undefined {
    if (this.#bus === undefined || !isPublicChannel(channel) || this.#raw.has(channel)) return undefined
    const joined = this.#bus.join([channel])
    return () => {
      joined.then((leave) => leave())
    }
  }

  /**
   * Joins channels.
   * @returns a promise that resolves when their messages arrive, with a function that ends it; undefined if there is nothing
   *   to end
   * @throws BadAddress (400) for the name of a raw channel that PostgreSQL does not allow, ChannelRefused (400) for one that
   *   this database refuses, ListenerUnavailable (503)
   */
  async join(channels: readonly string[]): Promise<(() => void) | undefined> {
    const leaveRaw = await this.#raw.join(channels)
    if (this.#bus === undefined) return leaveRaw
    const carried = channels.filter((channel) => isPublicChannel(channel) && !this.#raw.has(channel))
    try {
      const leave = await this.#bus.join(carried)
      return () => {
        leaveRaw?.()
        leave()
      }
    } catch (error) {
      leaveRaw?.()
      throw error
    }
  }
}
