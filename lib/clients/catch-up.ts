import type { Losses } from '../channels/index.js'
import type { MessageStore, RetentionRules } from '../durable/index.js'
import { isPermanent } from '../errors.js'
import { parseMessageId } from '../messages/index.js'
import type { Connection } from './connection.js'

export interface CatchUpOptions {
  history: MessageStore
  durable: RetentionRules
  losses: Losses
}

/** Replays the messages that a client missed while it was disconnected. */
export class CatchUp {
  readonly #history: MessageStore
  readonly #durable: RetentionRules
  readonly #losses: Losses

  constructor({ history, durable, losses }: CatchUpOptions) {
    this.#history = history
    this.#durable = durable
    this.#losses = losses
  }

  /**
   * Sends a client the messages that it missed, then those that were held in the meantime. If the messages can never be
   * read, it gets a `HistoryGap` instead.
   */
  async resume(connection: Connection, since: string): Promise<void> {
    try {
      await this.#resume(connection, since)
    } catch (error) {
      if (!isPermanent(error)) throw error
      this.#losses.add('unreplayed', { err: error })
      const missing = connection.channels.filter((channel) => this.#durable.ageOf(channel) !== undefined)
      connection.replay(
        missing.map((channel) => connection.format.encode(this.#durable.historyGap(channel, since, null, 0)))
      )
      while (connection.open && !connection.release(0)) {}
    }
  }

  async #resume(connection: Connection, since: string): Promise<void> {
    const { format } = connection
    const channels = connection.read ? connection.channels : []
    if (channels.length === 0) {
      connection.release(0)
      return
    }
    const { latest, channels: states } = await this.#history.state(channels)
    const start = since === 'earliest' ? { position: 0, epoch: this.#durable.epoch } : parseMessageId(since)
    const foreign = start === undefined || start.epoch !== this.#durable.epoch || start.position > latest
    const gaps = states.filter(({ trimmed }) => foreign || (since !== 'earliest' && start.position < trimmed))
    const skipped = new Set(gaps.map(({ channel }) => channel))
    connection.replay(
      gaps
        .filter(({ oldest, trimmed, channel }) => {
          return oldest !== null || trimmed > 0 || this.#durable.ageOf(channel) !== undefined
        })
        .map(({ channel, oldest }) => format.encode(this.#durable.historyGap(channel, since, oldest, latest)))
    )
    let after = foreign || skipped.size === channels.length ? latest : start.position
    do {
      for (let more = true; more && connection.open; ) {
        const page = await this.#history.read(channels, after)
        const frames = page.messages
          .filter(({ position, message }) => position > latest || !skipped.has(message.channel))
          .map((message) => message.frame(format))
        connection.replay(frames)
        await connection.drained()
        after = page.messages.at(-1)?.position ?? after
        more = page.more
      }
    } while (connection.open && !connection.release(after))
  }
}
