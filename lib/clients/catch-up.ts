import { type Frame, isPublicChannel, type Losses, type RawChannels } from '../channels/index.js'
import { ChannelPage, type ChannelReads, type RetentionRules } from '../durable/index.js'
import { isPermanent } from '../errors.js'
import { parseMessageId } from '../messages/index.js'
import type { Connection } from './connections/connection.js'
import { follow } from './follow.js'

/** Where a client starts: after the message with an id (or `earliest`), or with the last messages of each channel. */
export type Start = { since: string } | { last: number }

export interface CatchUpOptions {
  reads: Pick<ChannelReads, 'resume' | 'read' | 'tail'>
  durable: RetentionRules
  losses: Losses
  rawChannels: Pick<RawChannels, 'has'>
}

/** What is to be replayed. */
interface Replayed {
  channels: readonly string[]
  /** The position before the first message; of each channel another one, where its messages begin later. */
  after: number
  starts?: readonly number[]
  /** The last position of all when it began. */
  latest: number
  /** Channels of which nothing up to `latest` is replayed. */
  skipped: ReadonlySet<string>
  /** No message after this position may be missing. */
  whole: number
  /** The first page, if it was read already. */
  first?: ChannelPage | undefined
}

/**
 * Replays messages to a client that connects (those that it missed while it was disconnected, or the last ones), and to
 * one that reads too slowly.
 */
export class CatchUp {
  readonly #options: CatchUpOptions

  constructor(options: CatchUpOptions) {
    this.#options = options
  }

  /**
   * Sends a client the stored messages from its start on, then those that were held in the meantime. If the messages can
   * never be read, it gets a `HistoryGap` instead.
   */
  async resume(connection: Connection, start: Start): Promise<void> {
    const { durable, losses } = this.#options
    try {
      await this.#resume(connection, start)
    } catch (error) {
      if (!isPermanent(error)) throw error
      losses.add('unreplayed', { err: error })
      const missing = connection.channels.filter((channel) => durable.ageOf(channel) !== undefined)
      const requested = 'since' in start ? start.since : null
      connection.replay(
        missing.map((channel) => connection.format.encode(durable.historyGap(channel, requested, null, 0)))
      )
      while (connection.open && !connection.release(0)) {}
    }
  }

  /**
   * Lets a client for which too much waits continue with the stored messages, if they have all that it misses: all of its
   * channels must be durable.
   * @param frames the first that are not sent to it
   * @returns whether it does
   */
  fallBehind(connection: Connection, frames: readonly Frame[]): boolean {
    const first = frames.find(({ position }) => position !== undefined)?.position
    if (first === undefined || !connection.channels.every((channel) => this.#isStored(channel))) return false
    connection.hold()
    connection.skip()
    connection.fellBehind()
    this.#follow(connection, first - 1)
    return true
  }

  /** Never rejects. */
  async #follow(connection: Connection, after: number): Promise<void> {
    try {
      if (await follow(connection, connection, connection.channels, after, this.#options)) return
    } catch (error) {
      this.#options.losses.add('unreplayed', { err: error })
    }
    // When the client resumes, it is informed of missing messages.
    connection.closeExpired()
  }

  #isStored(channel: string): boolean {
    const { durable, rawChannels } = this.#options
    return durable.ageOf(channel) !== undefined && isPublicChannel(channel) && !rawChannels.has(channel)
  }

  async #resume(connection: Connection, start: Start): Promise<void> {
    if (!connection.read || connection.channels.length === 0) {
      connection.release(0)
      return
    }
    const replayed = await ('since' in start
      ? this.#since(connection, start.since)
      : this.#last(connection.channels, start.last))
    const { reads } = this.#options
    const { channels, starts, latest, skipped, whole } = replayed
    const { format } = connection
    let { after } = replayed
    do {
      for (let more = true; more && connection.open; ) {
        const page = replayed.first ?? (await reads.read(channels, after, starts))
        // It is not kept while the client reads what it got.
        replayed.first = undefined
        // It was so slow that messages were deleted before it got them.
        if (after >= whole && page.trimmed > after) {
          connection.closeExpired()
          return
        }
        if (skipped.size === 0) {
          const { frames, joined } = page.encode(format)
          connection.replay(frames, joined)
        } else {
          const wanted = page.messages.filter(
            ({ position, message }) => position > latest || !skipped.has(message.channel)
          )
          connection.replay(wanted.map((message) => message.frame(format)))
        }
        await connection.drained()
        after = page.messages.at(-1)?.position ?? after
        more = page.more
      }
    } while (connection.open && !connection.release(after))
  }

  /** The messages after an id. Tells the client of gaps. */
  async #since(connection: Connection, since: string): Promise<Replayed> {
    const { reads, durable } = this.#options
    const { channels, format } = connection
    const start = since === 'earliest' ? { position: 0, epoch: durable.epoch } : parseMessageId(since)
    const known = start !== undefined && start.epoch === durable.epoch
    const {
      latest,
      channels: states,
      page
    } = await reads.resume(channels, known ? start.position : undefined)
    const foreign = start === undefined || start.epoch !== durable.epoch || start.position > latest
    const gaps = states.filter(({ trimmed }) => foreign || (since !== 'earliest' && start.position < trimmed))
    const skipped = new Set(gaps.map(({ channel }) => channel))
    connection.replay(
      gaps
        .filter(({ oldest, trimmed, channel }) => {
          return oldest !== null || trimmed > 0 || durable.ageOf(channel) !== undefined
        })
        .map(({ channel, oldest }) => format.encode(durable.historyGap(channel, since, oldest, latest)))
    )
    if (foreign || skipped.size === channels.length) {
      // It gets what comes after the moment for which the gaps are.
      const first = new ChannelPage([], false, 0, latest)
      return { channels, after: latest, latest, skipped, whole: latest, first }
    }
    const after = start.position
    const whole = skipped.size > 0 ? latest : Math.max(after, 1)
    return { channels, after, latest, skipped, whole, first: page }
  }

  /** The last messages of each channel. */
  async #last(channels: readonly string[], count: number): Promise<Replayed> {
    const { reads } = this.#options
    const { latest, starts } = await reads.tail(channels, count)
    const after = Math.min(...starts)
    const { page } = await reads.resume(channels, after, starts)
    return { channels, after, starts, latest, skipped: new Set(), whole: Math.max(...starts), first: page }
  }
}
