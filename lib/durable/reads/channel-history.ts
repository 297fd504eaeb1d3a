import { asBadMessage, errors } from '../../errors.js'
import { type Message, parseMessageId } from '../../messages/index.js'
import type { MessageStore } from '../message-store.js'
import type { RetentionRules } from '../retention-rules.js'
import type { ChannelReads, States } from './channel-reads.js'

/** A page of a channel's stored messages. */
export interface HistoryPage {
  /** Oldest first. */
  messages: Message[]
  /** Whether messages between `since` and the first of these have been deleted. */
  gap: boolean
  /** The `since` (or, newest first, the `before`) of the next page; undefined for the last page. */
  next: string | undefined
}

export interface ChannelHistoryOptions {
  history: Pick<MessageStore, 'catchUp' | 'list'>
  reads: Pick<ChannelReads, 'state'>
  durable: Pick<RetentionRules, 'require' | 'epoch'>
  /** The maximum number of bytes of a page. */
  maxHistoryBytes: number
}

/** Lists the stored messages of a channel in pages, whose places are ids of messages. */
export class ChannelHistory {
  readonly #options: ChannelHistoryOptions

  constructor(options: ChannelHistoryOptions) {
    this.#options = options
  }

  /**
   * The messages after an id, oldest first.
   * @param since undefined or `'earliest'`: from the oldest
   * @param reader identifies who asks, because readers take turns
   * @throws NotInstalled (501), BadMessage (400), UnknownPosition (409), DatabaseUnavailable (503)
   */
  async after(
    channel: string,
    since: string | undefined,
    limit: number,
    reader: string
  ): Promise<HistoryPage> {
    const id = since === 'earliest' ? undefined : since
    const { page, start } = await this.#listed(channel, 'since', id, { limit, reader })
    if (start === undefined) return page
    // After the messages were read: some may have been deleted in the meantime.
    const { channels } = await this.#stateFrom(start, channel)
    return { ...page, gap: start < channels[0]!.trimmed }
  }

  /**
   * The messages before an id, newest first.
   * @param before undefined: from the newest
   * @param reader identifies who asks, because readers take turns
   * @throws the errors of `after`
   */
  async before(
    channel: string,
    before: string | undefined,
    limit: number,
    reader: string
  ): Promise<HistoryPage> {
    const { page, start } = await this.#listed(channel, 'before', before, { limit, reader, reverse: true })
    if (start !== undefined) await this.#stateFrom(start, channel)
    return page
  }

  /** @returns a page of a channel's messages, and the position of the id, if one was given */
  async #listed(
    channel: string,
    name: 'since' | 'before',
    id: string | undefined,
    { limit, reader, reverse = false }: { limit: number; reader: string; reverse?: boolean }
  ): Promise<{ page: HistoryPage; start: number | undefined }> {
    const { durable, history, maxHistoryBytes: maxBytes } = this.#options
    durable.require()
    const start = id === undefined ? undefined : parseMessageId(id)
    if (start === undefined && id !== undefined) {
      const also = name === 'since' ? ', or "earliest"' : ''
      throw new errors.BadMessage(`"${name}" must be the id of a message${also}`)
    }
    if (start !== undefined && start.epoch !== durable.epoch) throw new errors.UnknownPosition()
    const { messages, more } = await history
      .catchUp()
      .then(() => history.list(channel, reader, { after: start?.position, limit, maxBytes, reverse }))
      .catch((error) => {
        throw asBadMessage(error)
      })
    const listed = messages.map(({ message }) => message)
    const page = { messages: listed, gap: false, next: more ? listed.at(-1)!.id : undefined }
    return { page, start: start?.position }
  }

  /** The state of a channel. @throws UnknownPosition for a position that no message has yet */
  async #stateFrom(position: number, channel: string): Promise<States> {
    const states = await this.#options.reads.state([channel])
    if (position > states.latest) throw new errors.UnknownPosition()
    return states
  }
}
