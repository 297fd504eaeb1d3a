import { type Connection, follow } from '../../../clients/index.js'
import type { StoredMessage } from '../../../durable/index.js'
import { isInteger, isObject } from '../../../json-value.js'
import type { Core } from '../../index.js'
import type { SdkFormat, SdkFrame } from '../wire/formats.js'
import { CommandError, DISCONNECT, DisconnectError, ERRORS, textOf } from '../wire/protocol.js'
import type { EncodedPublications, HistoryResult, SubscribeResult } from '../wire/replies.js'
import type { Subscription } from './subscription.js'

/** The maximum number of publications in one answer to `history`. */
const MAX_HISTORY = 300

/** The bit of `flag` that asks for an error if a position cannot be recovered. */
const ERROR_WHERE_LOST = 2

/** A client, and the encoding that it speaks. */
type SdkReader = Connection & { readonly format: SdkFormat }

/** Recovery in durable channels. An offset is the position of a message; the epoch is that of the database. */
export class Recovery {
  readonly #core: Core

  constructor(core: Core) {
    this.#core = core
  }

  /**
   * Recovers the messages that a client missed, if it subscribes with the position of its last message.
   * @param subscription is in the hub already, and holds new messages
   * @returns the result for the reply, and `follow`, which sends what comes after the reply
   * @throws CommandError
   */
  async recover(
    subscription: Subscription,
    connection: SdkReader,
    params: Record<string, unknown>
  ): Promise<{ result: SubscribeResult; follow: () => void }> {
    const { reads, durable } = this.#core
    const { channel } = subscription
    const recover = params.recover === true
    const { offset, epoch } = recover ? positionOf(params) : { offset: undefined, epoch: '' }
    const {
      latest,
      channels,
      page: first
    } = await reads.resume([channel], this.#isKnown(epoch) ? offset : undefined)
    const { trimmed } = channels[0]!
    const top = { recoverable: true, positioned: true, epoch: durable.epoch }
    if (!recover) {
      return {
        result: { ...top, ...offsetOf(latest) },
        follow: () => this.#start(subscription, connection, latest)
      }
    }
    const fail = () => {
      if ((Number(params.flag) & ERROR_WHERE_LOST) !== 0) {
        throw new CommandError(ERRORS.UNRECOVERABLE_POSITION)
      }
      return {
        result: { ...top, ...offsetOf(latest), was_recovering: true },
        follow: () => this.#start(subscription, connection, latest)
      }
    }
    if (offset === undefined || !this.#isKnown(epoch) || offset > latest || offset < trimmed) return fail()
    const page = first ?? (await reads.read([channel], offset))
    const publications = publicationsOf(page.messages, connection.format)
    // One of them can never be read.
    if (publications === undefined) return fail()
    const last = page.messages.at(-1)?.position ?? offset
    return {
      result: { ...top, ...offsetOf(offset), was_recovering: true, recovered: true, publications },
      follow: () => {
        if (page.more) this.follow(subscription, connection, last)
        else this.#start(subscription, connection, last)
      }
    }
  }

  /**
   * Answers `history`, once the client has read what was sent before. If messages are large, there are fewer than
   * requested; the client continues with the offset of the last one.
   * @throws CommandError, DisconnectError
   */
  async history(
    channel: string,
    params: Record<string, unknown>,
    connection: SdkReader
  ): Promise<HistoryResult> {
    const { history, reads, durable, limits } = this.#core
    if (durable.ageOf(channel) === undefined) throw new CommandError(ERRORS.NOT_AVAILABLE)
    const { limit = 0, reverse = false, since } = params
    if (!isInteger(limit)) throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'limit')
    await history.catchUp()
    const { latest } = await reads.state([channel])
    const top = { ...offsetOf(latest), epoch: durable.epoch }
    let after: number | undefined
    if (since !== undefined) {
      if (!isObject(since)) throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'since')
      const position = positionOf(since)
      if (position.offset === undefined || !this.#isKnown(position.epoch)) {
        throw new CommandError(ERRORS.UNRECOVERABLE_POSITION)
      }
      after = position.offset
    }
    if (limit === 0) return top
    const count = limit < 0 ? MAX_HISTORY : Math.min(limit, MAX_HISTORY)
    await connection.drained()
    const { messages } = await history.list(channel, connection.subject ?? connection.address, {
      after,
      limit: count,
      maxBytes: limits.maxHistoryBytes,
      reverse: reverse === true
    })
    const frames = framesOf(messages, connection.format).filter(({ ends }) => !ends)
    return { ...top, publications: frames.map(({ bytes }) => bytes) }
  }

  /**
   * Sends the stored messages that do not fit into the reply, or that the client was too slow for, as pushes, as fast as
   * the client reads them. Never rejects.
   * @param after the position after which the client has been sent nothing
   */
  async follow(subscription: Subscription, connection: Connection, after: number): Promise<void> {
    try {
      if (await follow(subscription, connection, [subscription.channel], after, this.#core)) return
    } catch (error) {
      this.#core.log.warn({ err: error }, 'messages could not be replayed')
    }
    subscription.insufficient()
  }

  /** Starts a subscription whose client has the messages up to a position. */
  #start(subscription: Subscription, connection: Connection, position: number): void {
    if (!subscription.release(position)) this.follow(subscription, connection, position)
  }

  #isKnown(epoch: string): boolean {
    return epoch === '' || epoch === this.#core.durable.epoch
  }
}

/**
 * Reads the position that a client sends. The offset is undefined for a number that no message can have.
 * @throws DisconnectError for another kind of value
 */
function positionOf(params: Record<string, unknown>): { offset: number | undefined; epoch: string } {
  const { offset = 0 } = params
  // Some SDKs send 64-bit numbers as strings.
  const number = typeof offset === 'string' ? Number(offset) : offset
  if (typeof number !== 'number' || Number.isNaN(number)) {
    throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'offset')
  }
  const known = Number.isSafeInteger(number) && number >= 0
  return { offset: known ? number : undefined, epoch: textOf(params, 'epoch') }
}

/** The member `offset`, which the protocol leaves out if it is 0. */
function offsetOf(offset: number): { offset?: number } {
  return offset === 0 ? {} : { offset }
}

function framesOf(messages: readonly StoredMessage[], { publications }: SdkFormat): SdkFrame[] {
  return messages.map((message) => message.frame(publications))
}

/** The publications of messages; undefined if one of them is missing. */
function publicationsOf(
  messages: readonly StoredMessage[],
  format: SdkFormat
): EncodedPublications | undefined {
  const frames = framesOf(messages, format)
  return frames.some(({ ends }) => ends) ? undefined : frames.map(({ bytes }) => bytes)
}
