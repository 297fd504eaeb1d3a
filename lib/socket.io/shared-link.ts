import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { asError, errors, messageOf } from '../errors.js'
import { checkCanListen, Listener, type ListenerEvent } from '../listener/index.js'
import { NOTIFY_PAYLOAD_LIMIT } from '../postgres/index.js'
import { BatchQueue, MAY_WAIT } from '../publishing/batch-queue.js'
import { AttachmentCleanup } from './database/attachment-cleanup.js'
import { publishStatement } from './database/publish-statement.js'
import { createTables } from './database/tables.js'
import { classify, connectLike, guardPool, queryPool } from './database/user-pool.js'
import { MissingNodes } from './missing-nodes.js'
import type { NamespaceAdapter } from './namespace-adapter.js'
import type { ResolvedAdapterOptions } from './options.js'
import { attempt, channelOf, type Message, type Packet, packetOf, readAttachment } from './packets/packet.js'
import { OutageReplay } from './recovery/outage-replay.js'
import { SessionSaver } from './recovery/session-saver.js'
import { type SavedSession, StateRecovery } from './recovery/state-recovery.js'

/** How long packets wait for an unavailable database, in milliseconds. */
const PUBLISH_TIMEOUT = 10_000

/** The largest packet, in bytes of base64. */
const MAX_ATTACHMENT = 128 * 1024 * 1024

/** How often the database is asked for the position at which a namespace begins, in milliseconds. */
const BEGIN_INTERVAL = 200

/** How long closing may take while the database is available, and while it is not, in milliseconds. */
const CLOSE_TIMEOUT = 5000
const UNAVAILABLE_CLOSE_TIMEOUT = 500

/** The times that connection state recovery takes from the server's options. */
export type RecoveryTimes = Pick<
  ConstructorParameters<typeof StateRecovery>[0],
  'maxDisconnectionDuration' | 'noticeTime'
>

/** Shared by the adapters of all namespaces: one listener, and one queue that keeps the order of all packets. */
export class SharedLink {
  readonly recovery: StateRecovery | undefined
  readonly #pool: pg.Pool
  readonly #options: ResolvedAdapterOptions
  readonly #listener: Listener
  readonly #queue: BatchQueue<Packet>
  readonly #attachmentCleanup: AttachmentCleanup
  readonly #adapters = new Map<NamespaceAdapter, { stop?: () => Promise<void> }>()
  /** Namespaces that the database refuses to listen to. Their packets do not leave this node. */
  readonly #refused = new Map<string, Error>()
  /** The number of the last packet. It grows over restarts, because a node may keep its name. */
  #lastNumber: number
  #settled: Promise<void> = Promise.resolve()
  readonly #heartbeats = new Set<Promise<unknown>>()
  readonly #sessions: SessionSaver | undefined
  readonly #missing = new MissingNodes()
  readonly #outages: OutageReplay
  #recoverable = false
  #cleaner: NodeJS.Timeout | undefined
  #closed = false
  readonly #onPoolError = (error: Error) => this.#options.errorHandler(error)

  constructor(pool: pg.Pool, options: ResolvedAdapterOptions, times: RecoveryTimes | undefined) {
    this.#pool = pool
    this.#options = options
    const { tables, heartbeatInterval } = options
    const query = this.query.bind(this)
    this.recovery = times && new StateRecovery({ tables, query, ...times })
    this.#sessions =
      this.recovery &&
      new SessionSaver({
        recovery: this.recovery,
        settled: () => this.#settled,
        closed: () => this.#closed,
        onError: options.errorHandler
      })
    this.#lastNumber = times ? Date.now() * 1000 : 0
    this.#listener = new Listener({
      connect: () => connectLike(pool),
      check: (client) => checkCanListen(client, () => connectLike(pool)),
      prepare: (client) => this.#prepare(client),
      checkInterval: heartbeatInterval,
      retries: Number.POSITIVE_INFINITY,
      onEvent: (event) => this.#onListener(event)
    })
    this.#queue = new BatchQueue({
      send: async (groups) => {
        await this.query(...publishStatement(tables, groups.flat()))
        return groups.map(() => undefined)
      },
      limit: ({ header }) => (header === undefined ? NOTIFY_PAYLOAD_LIMIT - 1 : MAX_ATTACHMENT),
      repeatable: ({ kept }) => kept !== undefined,
      // Other nodes do not receive what is published before they listen again. While closing, nothing waits.
      ready: () => this.#closed || (this.#listener.state.up && !this.#missing.awaited),
      timeout: PUBLISH_TIMEOUT,
      onBatch: () => {}
    })
    this.#attachmentCleanup = new AttachmentCleanup({
      ...options,
      uid: randomBytes(8).toString('hex'),
      query,
      drained: () => Promise.all([...this.#adapters.keys()].map(({ inbox }) => inbox.drained())),
      onError: options.errorHandler
    })
    this.#outages = new OutageReplay({
      recovery: () => (this.#recoverable ? this.recovery : undefined),
      adapters: () => this.#adapters.keys(),
      isCurrent: (adapter) => this.#adapters.has(adapter),
      isRefused: (nsp) => this.#refused.has(nsp),
      begin: (adapter) => this.#begin(adapter),
      closed: () => this.#closed,
      maxDelay: PUBLISH_TIMEOUT,
      onError: options.errorHandler
    })
    // The pool emits an error when an idle connection is lost, and an 'error' event without a listener ends the process.
    guardPool(pool)
    pool.on('error', this.#onPoolError)
    this.#listener
      .listen(this.#attachmentCleanup.channel, (payload) => this.#attachmentCleanup.receive(payload))
      .catch(options.errorHandler)
    this.#listener.start().catch(() => {})
    this.#attachmentCleanup.start()
    if (this.recovery) {
      const clean = () => this.#recoverable && this.recovery!.clean().catch(options.errorHandler)
      this.#cleaner = setInterval(clean, options.cleanupInterval).unref()
    }
  }

  /** Whether the tables of connection state recovery exist and can be used. */
  get recoverable(): boolean {
    return this.#recoverable && !this.#closed
  }

  /** Whether this node receives what other nodes send. */
  get listening(): boolean {
    return this.#listener.state.up
  }

  get size(): number {
    return this.#adapters.size
  }

  /** The database channel of a namespace. */
  channelOf(nsp: string): string {
    return channelOf(this.#options.channelPrefix, nsp)
  }

  /** Runs one statement on the user's pool. Rejects with the same errors as `queryPool`. */
  query(text: string, values?: unknown[]): Promise<pg.QueryResult> {
    if (this.#closed) return Promise.reject(new errors.NotAccepted('the adapter is closed'))
    return queryPool(this.#pool, text, values)
  }

  /**
   * Adds a namespace. Resolves when its channel is listened to, or at once if the database is unavailable.
   * @throws ChannelRefused if the database refuses the channel's name
   */
  async add(adapter: NamespaceAdapter): Promise<void> {
    const own: { stop?: () => Promise<void> } = {}
    this.#adapters.set(adapter, own)
    let stop: () => Promise<void>
    try {
      stop = await this.#listener.listen(adapter.channel, (payload) => adapter.inbox.receive(payload))
    } catch (error) {
      if (error instanceof errors.ChannelRefused) this.#refused.set(adapter.nsp, error)
      throw error
    }
    if (!this.#adapters.has(adapter)) return stop()
    own.stop = stop
    if (this.#listener.state.up) await this.#begin(adapter)
  }

  /** Removes a namespace. The link closes with the last one. */
  async remove(adapter: NamespaceAdapter): Promise<void> {
    const own = this.#adapters.get(adapter)
    if (own === undefined) return
    const available = this.#listener.state.up && !this.#pool.ending
    const timeout = available ? CLOSE_TIMEOUT : UNAVAILABLE_CLOSE_TIMEOUT
    // Sessions are saved after the last packets.
    const ended = Promise.all([this.#settled, this.#sessions?.idle()])
    await Promise.race([ended, sleep(timeout, undefined, { ref: false })])
    this.#adapters.delete(adapter)
    this.#refused.delete(adapter.nsp)
    adapter.inbox.close()
    if (this.#adapters.size > 0) return own.stop?.()
    clearInterval(this.#cleaner)
    this.#attachmentCleanup.stop()
    if (available) await this.#attachmentCleanup.sendMark({ leaving: true })
    this.#closed = true
    await this.#listener.close()
    this.#pool.off('error', this.#onPoolError)
  }

  /**
   * Publishes a message after all earlier ones. Failures go to the error handler.
   * @param channel the database channel of its namespace
   * @param volatile whether it may be lost; then it does not wait for an unavailable database
   * @returns the packet's number if the packet is kept
   */
  publish(channel: string, message: Message, volatile = false): number | undefined {
    const { payloadThreshold } = this.#options
    const refusal = this.#refused.get(message.nsp)
    if (refusal !== undefined) {
      this.#failed(refusal)
      return undefined
    }
    let packet: Packet
    try {
      const origin = this.#recoverable ? message.uid : undefined
      packet = packetOf(channel, message, ++this.#lastNumber, payloadThreshold, origin)
    } catch (error) {
      this.#failed(error)
      return undefined
    }
    const published = this.#queue.publish([packet], volatile ? {} : MAY_WAIT)
    // `settled` covers only packets that must not be lost.
    if (volatile) published.catch(() => {})
    else {
      const before = this.#settled
      this.#settled = published.catch((error) => {
        if (!this.#closed) this.#failed(error)
        return before
      })
    }
    return packet.kept?.seq
  }

  /**
   * Sends a heartbeat at once, ahead of the queue. A failure is ignored, because another heartbeat follows. While this node
   * does not listen, none is sent: the others would wait for answers to requests that it cannot receive.
   */
  async sendHeartbeat(channel: string, { uid, nsp, type }: Message): Promise<void> {
    if (!this.#listener.state.up || this.#refused.has(nsp)) return
    const heartbeat = this.query('select pg_catalog.pg_notify($1, $2)', [
      channel,
      JSON.stringify({ uid, nsp, type })
    ]).catch(() => {})
    this.#heartbeats.add(heartbeat)
    await heartbeat
    this.#heartbeats.delete(heartbeat)
  }

  /** Resolves when everything published so far has been accepted by the database, or has failed. */
  settled(): Promise<void> {
    return this.#settled
  }

  /** Resolves when all heartbeats have been sent, or after UNAVAILABLE_CLOSE_TIMEOUT. */
  async heartbeatsSent(): Promise<void> {
    const timeout = sleep(UNAVAILABLE_CLOSE_TIMEOUT, undefined, { ref: false })
    await Promise.race([Promise.all(this.#heartbeats), timeout])
  }

  /** Notes that a message of another node has arrived. */
  heard(nsp: string, uid: string): void {
    this.#missing.heard(nsp, uid)
  }

  /** Reads attachments by their ids. Answers an error for a row that holds no message. */
  async read(ids: readonly string[]): Promise<Map<string, Message | Error>> {
    const { rows } = await this.query(
      `select id::pg_catalog.text as id, payload from ${this.#options.tables.attachments} where id operator(pg_catalog.=) any($1::bigint[])`,
      [ids]
    )
    return new Map(rows.map(({ id, payload }) => [id, attempt(() => readAttachment(payload))]))
  }

  /** Saves a session after everything published before it. So a node that finds the session also finds those packets. */
  save(session: SavedSession): void {
    // A session that the database refuses would make the statement fail for the sessions that are saved with it.
    if (!this.#refused.has(session.nsp)) this.#sessions!.save(session)
  }

  #failed(error: unknown): void {
    this.#options.errorHandler(new errors.SocketIoNotPublished(messageOf(error)))
  }

  /** Creates the tables. If the database refuses, the node runs without them: small packets do not need a table. */
  async #prepare(client: pg.Client): Promise<void> {
    const query = (text: string, values?: unknown[]) => client.query(text, values)
    try {
      await createTables(query, this.#options.tables, this.recovery !== undefined)
      await this.recovery?.refresh()
      this.#recoverable = this.recovery !== undefined
    } catch (error) {
      if (!(classify(error) instanceof errors.NotAccepted)) throw error
      this.#options.errorHandler(asError(error))
    }
  }

  #onListener(event: ListenerEvent): void {
    const { errorHandler } = this.#options
    switch (event.type) {
      case 'connection lost':
        this.#outages.lost()
        this.#missing.expect(this.#adapters.keys())
        if (this.#recoverable) for (const { inbox } of this.#adapters.keys()) inbox.hold()
        errorHandler(event.error)
        break
      case 'attempt failed':
        // One report for each outage, and one for the start.
        if (event.attempt === 1 && event.wait !== undefined) errorHandler(event.error)
        break
      case 'lost':
        // The message of CannotListen names an option that the adapter does not have.
        errorHandler(
          event.error instanceof errors.CannotListen
            ? new errors.ListenerUnavailable(
                'the pool connects to a hot standby or to a pooler in transaction mode, where LISTEN is not possible: pass createAdapter a pool that connects to the primary server directly'
              )
            : event.error
        )
        break
      case 'channel refused':
      case 'handler failed':
        errorHandler(asError(event.error))
        break
      case 'listening':
        this.#attachmentCleanup.sendMark({ hello: true })
        for (const [adapter, { stop }] of this.#adapters) if (stop) this.#begin(adapter).catch(errorHandler)
        break
      case 'relistening':
        this.#attachmentCleanup.sendMark({ hello: true })
        this.#missing.call({
          adapters: () => this.#adapters.keys(),
          timeout: this.#options.heartbeatTimeout,
          listening: () => this.#listener.state.up && !this.#closed
        })
        this.#outages.replay(event.gap)
        break
    }
  }

  /** Finds out where a namespace begins. Called when its channel is listened to, so nothing is missed after that position. */
  async #begin(adapter: NamespaceAdapter): Promise<void> {
    adapter.hello()
    while (this.#recoverable && adapter.position === undefined && this.#adapters.has(adapter)) {
      try {
        adapter.begin(await this.recovery!.last(adapter.nsp))
      } catch (error) {
        if (error instanceof errors.NotAccepted) throw error
        await sleep(BEGIN_INTERVAL, undefined, { ref: false })
      }
    }
  }
}
