import { setTimeout as sleep } from 'node:timers/promises'
import type { Announcement } from '../bus/index.js'
import type { ChannelOrder } from './incoming/channel-order.js'

/** For how many of the last messages the number of deliveries is remembered. */
const REMEMBERED = 20_000

/** How often a message that has not arrived yet is looked for, and for how long, in milliseconds. */
const INTERVAL = 5
const PATIENCE = 2000

/** Where a message stands: the channel, and its position. */
export type PlaceInChannel = Pick<Announcement, 'channel' | 'position'>

/** Counts to how many clients of this node the messages of a bus were delivered. */
export class BusDeliveries {
  readonly #order: ChannelOrder
  readonly #counts = new Map<number, number>()

  constructor(order: ChannelOrder) {
    this.#order = order
  }

  /** Notes that a message was delivered. */
  add(position: number, delivered: number): void {
    this.#counts.set(position, delivered)
    if (this.#counts.size <= REMEMBERED) return
    for (const oldest of this.#counts.keys()) {
      this.#counts.delete(oldest)
      break
    }
  }

  /**
   * To how many clients messages were delivered. Waits until they have arrived, for a while.
   * @returns the sum; channels that nobody here has joined count as 0
   */
  async of(places: readonly PlaceInChannel[]): Promise<number> {
    const deadline = performance.now() + PATIENCE
    let sum = 0
    for (const { channel, position } of places) {
      while (!this.#order.has(channel, position) && performance.now() < deadline) await sleep(INTERVAL)
      sum += this.#counts.get(position) ?? 0
    }
    return sum
  }
}
