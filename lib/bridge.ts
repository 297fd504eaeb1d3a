import { EventEmitter } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Caller, Claims } from './auth/index.js'
import { checkChannel } from './channel-name.js'
import type { ChannelSummary } from './channels/index.js'
import type { Closing, ConnectionFilter, ConnectionSummary } from './clients/index.js'
import type { Delivery, Disconnected, NodeSummary, Scope } from './cluster/index.js'
import type { States } from './durable/index.js'
import { asBadMessage, errors } from './errors.js'
import { type Health, healthOf } from './health.js'
import type { ListenerState } from './listener/index.js'
import { type Message, parseMessageId, senderOf } from './messages/index.js'
import type { Metrics } from './metrics.js'
import type { Parts } from './parts.js'
import type { ChannelPresence } from './presence/index.js'
import type { Notification } from './publishing/index.js'

/** How many messages, and bytes, go into one transaction: a message for several channels counts for each. */
const MAX_PUBLISHED = 10_000
const MAX_PUBLISHED_BYTES = 16 * 1024 * 1024

/** How long messages are prepared before others have their turn, in milliseconds. */
const SLICE = 10

/** What the bridge emits. */
export interface BridgeEvents {
  /** The listener has ended for good. */
  lost: [error: Error]
  /** The listener listens again; `gap`: milliseconds within which notifications may have been lost. */
  reconnected: [{ gap: number }]
}

/** A message to publish, as `POST /publish` takes it. */
export interface OutgoingMessage {
  channels: readonly string[]
  payload: unknown
}

/** A page of what is stored of a channel. */
export interface ChannelHistory {
  messages: Message[]
  /** Messages between `since` and the first of these have gone already. */
  gap: boolean
  /** The id after which, or newest first before which, the next page begins; undefined: this is the last. */
  next: string | undefined
}

export interface PublishOptions {
  /** What makes durable messages that are sent again the same ones. */
  key?: string | undefined
  /** As whom the messages are passed to the function of `onMessageFunction`; undefined: they are not. */
  caller?: Caller | undefined
  /** Answer who got them. */
  confirm?: boolean | undefined
}

/**
 * The bridge between PostgreSQL and browsers. Every message goes through the database: there is no other way
 * from one socket to another.
 */
export class Bridge extends EventEmitter<BridgeEvents> {
  readonly metrics: Metrics
  readonly #parts: Parts
  #cancel!: (reason: Error) => void
  readonly #cancelled = new Promise<never>((_, reject) => {
    this.#cancel = reject
  })

  constructor(parts: Parts) {
    super()
    // Nobody waiting must not end the process.
    this.#cancelled.catch(() => {})
    this.#parts = parts
    this.metrics = parts.metrics
  }

  /**
   * Calls a function with the payload of each notification on a database channel.
   * @param databaseChannel 1 to 63 bytes
   * @returns once LISTEN has committed, a function that ends it
   * @throws BadMessage, ChannelRefused (400) for a name that the database does not take
   */
  listen(databaseChannel: string, handler: (payload: string) => void): Promise<() => Promise<void>> {
    return this.#parts.options.listener.listen(databaseChannel, handler)
  }

  /**
   * Calls a function with each message of a websocket channel: the text that browsers get.
   * @returns a function that ends it
   */
  subscribe(channel: string, handler: (message: string) => void): () => void {
    checkChannel(channel, 'the channel')
    return this.#parts.hub.listen(channel, handler)
  }

  /**
   * Publishes a message to everyone who reads a websocket channel, on all servers.
   * @param channel the websocket channel
   * @param payload a string, or any other JSON value
   * @param claims what the message's `claims` show beside `message_delivered_at`
   * @returns a promise that resolves when the database has accepted it; with `confirm`, when all servers have told
   *   to how many clients they delivered it, or 2 s later
   * @throws BadMessage, PayloadTooLarge, DatabaseUnavailable, NotAccepted, OutcomeUnknown
   */
  publish(channel: string, payload: unknown, claims?: Claims): Promise<void>
  publish(channel: string, payload: unknown, claims: Claims, options: { confirm: true }): Promise<Delivery>
  async publish(
    channel: string,
    payload: unknown,
    claims: Claims = {},
    { confirm = false }: { confirm?: boolean } = {}
  ): Promise<Delivery | void> {
    return this.publishAll([{ channels: [channel], payload }], claims, { confirm })
  }

  /**
   * Publishes several messages in one transaction: all or none. Arguments and errors as for `publish`.
   * @throws RequestTooLarge (413) where they are too many
   * @throws Rejected, RoleNotAllowed where they are passed to a function that refuses one of them
   */
  async publishAll(
    messages: readonly OutgoingMessage[],
    claims: Claims,
    { key, caller, confirm = false }: PublishOptions = {}
  ): Promise<Delivery | void> {
    const sender = senderOf(claims, this.#parts.options.envelopeClaims)
    const count = messages.reduce((sum, { channels }) => sum + channels.length, 0)
    if (count > MAX_PUBLISHED)
      throw new errors.RequestTooLarge(`${MAX_PUBLISHED} messages, one for each channel`)
    const notifications: Notification[] = []
    let bytes = 0
    let slice = performance.now() + SLICE
    for (const { channels, payload } of messages) {
      for (const channel of channels) {
        checkChannel(channel, 'the channel')
        const notification = this.#parts.publisher.notification(channel, payload, sender, caller)
        notifications.push({ ...notification, key: key && `${key}:${notifications.length}` })
        bytes += notification.payload.length
        if (bytes > MAX_PUBLISHED_BYTES && count > 1) {
          throw new errors.RequestTooLarge(`${MAX_PUBLISHED_BYTES} bytes, with envelopes`)
        }
        if (performance.now() < slice) continue
        await nextTurn()
        slice = performance.now() + SLICE
      }
    }
    if (!confirm) return this.#parts.publisher.publish(notifications)
    return this.#parts.cluster.confirm(notifications, (all) =>
      this.#parts.publisher.publish(all, { alone: true })
    )
  }

  /**
   * The stored messages of a channel, oldest first.
   * @param since the id after which they begin; undefined or `earliest`: the oldest that is there
   * @param limit the most messages; fewer where they take more than `maxHistoryBytes`
   * @param reader whoever asks: readers take turns
   * @throws NotInstalled (501), BadMessage (400) for what is no id, UnknownPosition (409) for one of another epoch
   */
  async history(
    channel: string,
    since: string | undefined,
    limit: number,
    reader = ''
  ): Promise<ChannelHistory> {
    const after = since === 'earliest' ? undefined : since
    const { page, start } = await this.#listed(channel, 'since', after, { limit, reader })
    if (start === undefined) return page
    // After the messages, because some may have gone before they were read.
    const { channels } = await this.#stateFrom(start, channel)
    return { ...page, gap: start < channels[0]!.trimmed }
  }

  /**
   * The stored messages of a channel, newest first.
   * @param before the id before which they begin; undefined: the newest that is there
   * @param limit the most messages; fewer where they take more than `maxHistoryBytes`
   * @param reader whoever asks: readers take turns
   * @returns `next` is the `before` of the next page; `gap` is always false
   * @throws NotInstalled (501), BadMessage (400) for what is no id, UnknownPosition (409) for one of another epoch
   */
  async historyBefore(
    channel: string,
    before: string | undefined,
    limit: number,
    reader = ''
  ): Promise<ChannelHistory> {
    const { page, start } = await this.#listed(channel, 'before', before, { limit, reader, reverse: true })
    if (start !== undefined) await this.#stateFrom(start, channel)
    return page
  }

  /** @returns a page of a channel's messages, and the position of the id, where there is one */
  async #listed(
    channel: string,
    name: 'since' | 'before',
    id: string | undefined,
    { limit, reader, reverse = false }: { limit: number; reader: string; reverse?: boolean }
  ): Promise<{ page: ChannelHistory; start: number | undefined }> {
    const { durable, history, options } = this.#parts
    durable.require()
    const start = id === undefined ? undefined : parseMessageId(id)
    if (start === undefined && id !== undefined) {
      const also = name === 'since' ? ', or "earliest"' : ''
      throw new errors.BadMessage(`"${name}" must be the id of a message${also}`)
    }
    if (start !== undefined && start.epoch !== durable.epoch) throw new errors.UnknownPosition()
    const { maxHistoryBytes: maxBytes } = options
    const { messages, more } = await history
      .list(channel, reader, { after: start?.position, limit, maxBytes, reverse })
      .catch((error) => {
        throw asBadMessage(error)
      })
    const listed = messages.map(({ message }) => message)
    const page = { messages: listed, gap: false, next: more ? listed.at(-1)!.id : undefined }
    return { page, start: start?.position }
  }

  /** The state of a channel; throws UnknownPosition where a position has not been given yet. */
  async #stateFrom(position: number, channel: string): Promise<States> {
    const states = await this.#parts.history.state([channel])
    if (position > states.latest) throw new errors.UnknownPosition()
    return states
  }

  /**
   * The channels that sockets of this server are connected to; with the scope `cluster`, those of all servers.
   * @throws NodesUnavailable (503) for the scope `cluster` while the database is away
   */
  channels(options?: { scope?: 'local' | undefined }): ChannelSummary[]
  channels(options: Scope & { scope: 'cluster' }): Promise<ChannelSummary[]>
  channels(options: Scope = {}): ChannelSummary[] | Promise<ChannelSummary[]> {
    if (options.scope === 'cluster') return this.#parts.cluster.channels(options)
    return this.#parts.hub.summary()
  }

  /**
   * Who is in a presence channel, on all servers; while the database is away, of the others as last heard.
   * @throws NoPresence (404)
   */
  presence(channel: string): ChannelPresence {
    const { presence } = this.#parts
    if (!presence.has(channel)) throw new errors.NoPresence()
    return presence.summary(channel)
  }

  /**
   * The servers that share this database and listen channel, this one first.
   * @throws NodesUnavailable (503) while the database is away
   */
  nodes(): NodeSummary[] {
    return this.#parts.cluster.nodes()
  }

  /**
   * The open connections, sockets and event streams alike, that fit all of a filter.
   * @throws BadQuery (400); NodesUnavailable (503) for the scope `cluster` while the database is away
   */
  connections(filter: ConnectionFilter & Scope = {}): Promise<ConnectionSummary[]> {
    return this.#parts.cluster.connections(filter, filter)
  }

  /**
   * Closes the connections that fit all of a filter, on whichever server they are.
   * @param closing code (1000, or 3000 to 4999) and reason (at most 123 bytes); default: 3000, `disconnected`
   * @throws BadQuery (400), NodesUnavailable (503) while the database is away
   */
  disconnect(filter: ConnectionFilter, closing: Partial<Closing> = {}): Promise<Disconnected> {
    return this.#parts.cluster.disconnect(filter, closing)
  }

  /** The state of the listener's connection. */
  get listenerState(): ListenerState {
    return this.#parts.options.listener.state
  }

  /**
   * Ends a start that is under way, as `close()` cannot: Fastify's waits for it. `ready()` rejects with ShuttingDown.
   */
  cancelStart(): void {
    this.#cancel(new errors.ShuttingDown())
  }

  /** Rejects when the start is to end. */
  get cancelled(): Promise<never> {
    return this.#cancelled
  }

  /** Whether this server can do its work: the listener is alive and the pool answers. */
  health(): Promise<Health> {
    return healthOf(this.#parts)
  }
}
