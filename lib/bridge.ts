import { EventEmitter } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import {
  type Caller,
  type Claims,
  identityOf,
  type RevocationRequest,
  type RevocationSummary
} from './auth/index.js'
import { checkChannel } from './channel-name.js'
import { type ChannelQuery, type ChannelSummary, type ListedChannel, listChannels } from './channels/index.js'
import type { Closing, ConnectionFilter, ConnectionSummary } from './clients/index.js'
import type { Delivery, Disconnected, NodeSummary, Scope } from './cluster/index.js'
import {
  type HistoryPage,
  listRetention,
  listWatches,
  type RetentionSummary,
  type WatchSummary
} from './durable/index.js'
import { errors } from './errors.js'
import { type Health, healthOf } from './health.js'
import type { ListenerState } from './listener/index.js'
import { senderOf } from './messages/index.js'
import type { Metrics } from './metrics.js'
import type { Paging } from './page.js'
import type { Parts } from './parts.js'
import type { ChannelPresence } from './presence/index.js'
import type { Notification } from './publishing/index.js'

/** How many messages and bytes one transaction may publish. A message for several channels counts once for each. */
const MAX_PUBLISHED = 10_000
const MAX_PUBLISHED_BYTES = 16 * 1024 * 1024

/** How long messages are prepared before the event loop gets a turn, in milliseconds. */
const SLICE = 10

/** The events of `fastify.pgws`. */
export interface BridgeEvents {
  /**
   * The listener has ended for good: it is not supervised, or the schema has become too new for this server. The plugin
   * closes the Fastify instance.
   */
  lost: [error: Error]
  /** The listener is connected again. Notifications of the last `gap` milliseconds may be lost. */
  reconnected: [{ gap: number }]
}

/** A message to publish, as `POST /publish` takes it. */
export interface OutgoingMessage {
  /** The websocket channels to publish to. */
  channels: readonly string[]
  /** A string, or any other JSON value. */
  payload: unknown
}

export interface PublishOptions {
  /** An idempotency key: durable messages that are published again with the same key are stored once. */
  key?: string | undefined
  /** The client as which `onMessageFunction` is called; undefined: the function is not called. */
  caller?: Caller | undefined
  /** Whether to count the clients that received the messages. */
  confirm?: boolean | undefined
}

/**
 * `fastify.pgws`: the bridge between PostgreSQL and browsers. Every message goes through the database, even from one
 * client of a server to another.
 */
export class Bridge extends EventEmitter<BridgeEvents> {
  /** What `GET /metrics` serves. */
  readonly metrics: Metrics
  readonly #parts: Parts
  #cancel!: (reason: Error) => void
  readonly #cancelled = new Promise<never>((_, reject) => {
    this.#cancel = reject
  })

  constructor(parts: Parts) {
    super()
    // Without a handler, the rejection would end the process.
    this.#cancelled.catch(() => {})
    this.#parts = parts
    this.metrics = parts.metrics
  }

  /**
   * Calls a function with the payload of each notification on a database channel.
   * @param databaseChannel its name, 1 to 63 bytes of UTF-8 without NUL
   * @param handler is called with the text of the payload; what it throws is logged
   * @returns a promise that resolves when LISTEN has committed, or at once while the database is unavailable (the channel
   *   is then listened to when the listener reconnects). It resolves with a function that ends the subscription.
   * @throws BadMessage, ChannelRefused (400) if PostgreSQL does not accept the name
   */
  listen(databaseChannel: string, handler: (payload: string) => void): Promise<() => Promise<void>> {
    return this.#parts.options.listener.listen(databaseChannel, handler)
  }

  /**
   * Calls a function with each message of a websocket channel.
   * @param handler is called with the text that browsers receive; what it throws is logged
   * @returns a function that ends the subscription
   * @throws BadMessage (400) for an invalid name
   */
  subscribe(channel: string, handler: (message: string) => void): () => void {
    checkChannel(channel, 'the channel')
    const stop = this.#parts.hub.listen(channel, handler)
    const left = this.#parts.listened.follow(channel)
    return () => {
      stop()
      left?.()
    }
  }

  /**
   * Publishes a message to all readers of a websocket channel, on all servers.
   * @param channel the websocket channel, at most 1,024 bytes of UTF-8 without NUL
   * @param payload a string, or any other JSON value
   * @param claims the `claims` of the message, as far as `envelopeClaims` shows them
   * @param options with `confirm: true`, the result says how many clients the message was written to
   * @returns a promise that resolves when the database has accepted the message. With `confirm` it resolves when all
   *   servers have answered, or after 2 s, and then names those that have not.
   * @throws BadMessage (400) for an invalid name or payload; PayloadTooLarge (413); DatabaseUnavailable (503): nothing was
   *   published; NotAccepted (503); OutcomeUnknown (503): it may have been published
   * @example
   * await fastify.pgws.publish('chat', { hello: 'everyone' }, { sub: 'the shop' })
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
   * Publishes several messages in one transaction: all, or none. Arguments, result and errors are those of `publish`.
   * @throws RequestTooLarge (413) for more than 10,000 messages or 16 MiB
   * @throws Rejected (422), RoleNotAllowed (403) if `onMessageFunction` refuses one of them
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
   * The stored messages of a durable channel, oldest first.
   * @param since the `id` of a message: later ones are returned; undefined or `'earliest'`: from the oldest
   * @param limit the maximum number of messages; there are fewer if they exceed `maxHistoryBytes`
   * @param reader identifies who asks, because readers take turns
   * @throws NotInstalled (501); BadMessage (400) for what is not an id; UnknownPosition (409) for an id of another epoch;
   *   DatabaseUnavailable (503)
   */
  history(channel: string, since: string | undefined, limit: number, reader = ''): Promise<HistoryPage> {
    return this.#parts.channelHistory.after(channel, since, limit, reader)
  }

  /**
   * The stored messages of a durable channel, newest first.
   * @param before the `id` of a message: earlier ones are returned; undefined: from the newest
   * @param limit the maximum number of messages; there are fewer if they exceed `maxHistoryBytes`
   * @param reader identifies who asks, because readers take turns
   * @returns `next` is the `before` of the next page; `gap` is always false
   * @throws the errors of `history`
   */
  historyBefore(
    channel: string,
    before: string | undefined,
    limit: number,
    reader = ''
  ): Promise<HistoryPage> {
    return this.#parts.channelHistory.before(channel, before, limit, reader)
  }

  /**
   * The channels that clients of this server have joined. With the scope `cluster`, a promise of those of all servers.
   * @throws NodesUnavailable (503) for the scope `cluster` while the database is unavailable
   */
  channels(options?: { scope?: 'local' | undefined }): ChannelSummary[]
  channels(options: Scope & { scope: 'cluster' }): Promise<ChannelSummary[]>
  channels(options: Scope = {}): ChannelSummary[] | Promise<ChannelSummary[]> {
    if (options.scope === 'cluster') return this.#parts.cluster.channels(options)
    return this.#parts.hub.summary()
  }

  /**
   * The channels that clients have joined, in pages, with what they are and how many messages a second they deliver.
   * @param options the `scope`; `search`, a part of their names, or `channel`, one name; `sort` (`channel`, `readers`, `rate`);
   *   `limit` and `after`: `onPage` is called with the number of all that match, and the `after` of the next page
   * @throws BadQuery (400); NodesUnavailable (503) for the scope `cluster` while the database is unavailable
   */
  async listChannels({ scope, onMissing, ...query }: ChannelQuery & Scope = {}): Promise<ListedChannel[]> {
    const { cluster, durable, presence, rawChannels } = this.#parts
    const { search, channel: name } = query
    const channels = await cluster.ratedChannels({ scope, onMissing }, { search, channel: name })
    return listChannels(channels, query, (channel) => ({
      durable: durable.ageOf(channel) !== undefined,
      presence: presence.has(channel),
      raw: rawChannels.has(channel)
    }))
  }

  /**
   * The members of a presence channel, on all servers. If no client of this server has joined the channel, the other servers
   * are asked. While the database is unavailable, those of other servers are the last that are known.
   * @param options `onMissing` is called with the ids of the servers that have not answered, if there are any
   * @throws NoPresence (404) for a channel that does not track presence; NodesUnavailable (503) if other servers must be
   *   asked while the database is unavailable
   */
  async presence(channel: string, { onMissing }: Pick<Scope, 'onMissing'> = {}): Promise<ChannelPresence> {
    const { presence, members } = this.#parts
    if (!presence.has(channel)) throw new errors.NoPresence()
    return members.summary(channel, onMissing)
  }

  /**
   * The servers that share this database and listen channel, this one first.
   * @throws NodesUnavailable (503) while the database is unavailable
   */
  nodes(): NodeSummary[] {
    return this.#parts.cluster.nodes()
  }

  /**
   * The open connections, websockets and event streams alike, that match a filter: by server, and from the oldest to the
   * newest.
   * @param filter `id`, `subject`, `channel`, `address` and `transport`, which must all match; the `scope`: `local` (the
   *   default) or `cluster`; and for a page, `limit`, `after` (the id of the last connection of the page before) and `onPage`
   * @throws BadQuery (400); NodesUnavailable (503) for the scope `cluster` while the database is unavailable
   * @example
   * const page = await fastify.pgws.connections({ subject: 'ann', scope: 'cluster', limit: 100 })
   */
  connections(filter: ConnectionFilter & Scope & Paging = {}): Promise<ConnectionSummary[]> {
    return this.#parts.cluster.connections(filter, filter)
  }

  /**
   * Closes the connections that match a filter, on all servers.
   * @param filter `id`, `subject`, `channel`, `address` and `transport`, which must all match; at least one of them
   * @param closing the code (1000, or 3000 to 4999) and the reason (at most 123 bytes). Default: 3000, `disconnected`
   * @param options with `dryRun: true`, they are only counted
   * @returns how many were closed, and the servers that did not answer
   * @throws BadQuery (400); NodesUnavailable (503) while the database is unavailable
   */
  disconnect(
    filter: ConnectionFilter,
    closing: Partial<Closing> = {},
    { dryRun = false }: { dryRun?: boolean | undefined } = {}
  ): Promise<Disconnected> {
    return this.#parts.cluster.disconnect(filter, closing, dryRun)
  }

  /**
   * Revokes the token with a `jti`, or the tokens of a `sub` that were issued before a time. All servers obey within a second:
   * at handshakes, when a client sends a new token, and on open connections, which are closed with 3500, `token revoked`.
   * @param request `jti` or `sub`; `issuedBefore` (default: now); `expires`, when the last of the tokens expires and the
   *   revocation is deleted (default: never); `reason` and `revokedBy`, for administrators
   * @returns the id of the revocation
   * @throws BadQuery (400); NotInstalled (501); DatabaseUnavailable (503)
   * @example
   * await fastify.pgws.revoke({ sub: 'ann', expires: new Date(Date.now() + 3_600_000) })
   */
  async revoke(request: RevocationRequest): Promise<{ id: string }> {
    return { id: await this.#parts.revocationList.revoke(request) }
  }

  /**
   * Whether a token is revoked, for routes of the application that verify tokens themselves.
   * @param claims its verified claims, of which `jti`, `sub` and `iat` are used
   */
  isRevoked(claims: Claims): boolean {
    return this.#parts.options.revocations.includes(identityOf(claims))
  }

  /**
   * Withdraws a revocation.
   * @throws NoSuchRevocation (404); NotInstalled (501); DatabaseUnavailable (503)
   */
  unrevoke(id: string): Promise<void> {
    return this.#parts.revocationList.unrevoke(id)
  }

  /**
   * The revocations that have not expired, in the order of their ids.
   * @param page `limit` (default: 100), `after` (the id of the last revocation of the previous page) and `onPage`
   * @throws BadQuery (400); NotInstalled (501); DatabaseUnavailable (503)
   */
  revocations(page: Paging = {}): Promise<RevocationSummary[]> {
    return this.#parts.revocationList.list(page)
  }

  /**
   * The retention rules of durable channels, with the SQL that changes them.
   * @throws NotInstalled (501); DatabaseUnavailable (503)
   */
  async retention(): Promise<RetentionSummary[]> {
    this.#parts.durable.require()
    return listRetention(this.#parts.options.query)
  }

  /**
   * The watched tables, with the SQL that changes or ends the watch.
   * @throws NotInstalled (501); DatabaseUnavailable (503)
   */
  async watches(): Promise<WatchSummary[]> {
    this.#parts.durable.require()
    return listWatches(this.#parts.options.query)
  }

  /** The state of the listener's connection. Times are Unix times in milliseconds. */
  get listenerState(): ListenerState {
    return this.#parts.options.listener.state
  }

  /**
   * Cancels a start that is waiting for the database: `ready()` rejects with ShuttingDown. `close()` cannot do this,
   * because Fastify waits for the start first.
   */
  cancelStart(): void {
    this.#cancel(new errors.ShuttingDown())
  }

  /** Rejects with ShuttingDown when the start is cancelled. */
  get cancelled(): Promise<never> {
    return this.#cancelled
  }

  /** What `GET /health` answers: whether the listener is alive and the pool answers. */
  health(): Promise<Health> {
    return healthOf(this.#parts)
  }
}
