import type { Hub } from '../../channels/index.js'
import type { Reference } from '../../messages/index.js'
import type { RetentionRules } from '../retention-rules.js'

/** References contain no longer channel names, in bytes (pgws.short). */
const SHORT_NAME = 1000

export interface HistoryGapsOptions {
  durable: Pick<RetentionRules, 'ageOf' | 'historyGap'>
  hub: Hub
}

/** Tells the readers of durable channels, with a `HistoryGap`, that messages are missing and cannot be replayed. */
export class HistoryGaps {
  readonly #durable: HistoryGapsOptions['durable']
  readonly #hub: Hub

  constructor({ durable, hub }: HistoryGapsOptions) {
    this.#durable = durable
    this.#hub = hub
  }

  /** Sends one to the readers of a message that is given up. Without its channel, to all whose names references do not contain. */
  send({ channel, position }: Reference): void {
    const concerned = channel === undefined ? this.#channels().filter(isLong) : [channel]
    for (const name of concerned) {
      if (this.#durable.ageOf(name) === undefined) continue
      this.#hub.deliver(this.#durable.historyGap(name, null, null, position))
    }
  }

  /**
   * Sends one to the readers of each of some channels.
   * @param channels null: all durable channels
   * @param latest the last position in the database; 0: none
   */
  sendAll(channels: readonly string[] | null, latest: number): void {
    const concerned = channels?.filter((channel) => this.#hub.hasListeners(channel)) ?? this.#channels()
    for (const channel of concerned) this.#hub.deliver(this.#durable.historyGap(channel, null, null, latest))
  }

  /** The durable channels that clients have joined. */
  #channels(): string[] {
    const joined = this.#hub.summary().map(({ channel }) => channel)
    return joined.filter((channel) => this.#durable.ageOf(channel) !== undefined)
  }
}

function isLong(channel: string): boolean {
  return Buffer.byteLength(channel) > SHORT_NAME
}
