import { isPublicChannel } from './audience-channels.js'
import type { BusChannels } from './bus-channels.js'
import type { RawChannels } from './raw-channels.js'

/** Leaves what was joined. */
type Leave = () => void

export interface ListenedChannelsOptions {
  raw: RawChannels
  /** Undefined: all messages but those of raw channels arrive anyway. */
  bus: BusChannels | undefined
  /** The presence channels, and what other nodes say of their members. */
  presence: {
    has: (channel: string) => boolean
    join: (channels: readonly string[]) => Promise<Leave | undefined>
  }
}

/** Subscribes this node to what its clients' channels need: database channels, channels of the bus, members of other nodes. */
export class ListenedChannels {
  readonly #options: ListenedChannelsOptions

  constructor(options: ListenedChannelsOptions) {
    this.#options = options
  }

  /**
   * Joins a channel for a function of the application. Its messages arrive soon.
   * @returns a function that ends it; undefined if there is nothing to end. Raw channels are left to their clients.
   */
  follow(channel: string): Leave | undefined {
    const { raw, bus } = this.#options
    if (bus === undefined || !isPublicChannel(channel) || raw.has(channel)) return undefined
    const joined = bus.join([channel])
    return () => {
      joined.then((leave) => leave())
    }
  }

  /**
   * Joins channels.
   * @returns a promise that resolves when their messages arrive, and the members of presence channels are known, with a
   *   function that ends it; undefined if there is nothing to end
   * @throws BadAddress (400) for the name of a raw channel that PostgreSQL does not allow, ChannelRefused (400) for one that
   *   this database refuses, ListenerUnavailable (503)
   */
  async join(channels: readonly string[]): Promise<Leave | undefined> {
    const { raw, bus, presence } = this.#options
    const carried = (channel: string) =>
      isPublicChannel(channel) && (!raw.has(channel) || presence.has(channel))
    const left: Leave[] = []
    const leave = () => {
      for (const one of left.splice(0)) one()
    }
    const add = (one: Leave | undefined) => {
      if (one !== undefined) left.push(one)
    }
    try {
      add(await raw.join(channels))
      add(await bus?.join(channels.filter(carried)))
      // After the bus, because answers and changes arrive over it.
      add(await presence.join(channels))
    } catch (error) {
      leave()
      throw error
    }
    return left.length === 0 ? undefined : leave
  }
}
