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
import type { Member } from './member.js'
import { MissingNodes } from './missing-nodes.js'
import type { ResolvedAdapterOptions } from './options.js'
import { attempt, channelOf, type Message, type Packet, packetOf, readAttachment } from './packets/packet.js'
import { OutageReplay } from './recovery/outage-replay.js'
import { SessionSaver } from './recovery/session-saver.js'
import { type SavedSession, StateRecovery } from './recovery/state-recovery.js'

/** How long packets wait for a database that is away, in milliseconds. */
const PUBLISH_TIMEOUT = 10_000

/** The largest packet, in bytes of base64. */
const MAX_ATTACHMENT = 128 * 1024 * 1024

/** How often the database is asked where a namespace begins, in milliseconds. */
const BEGIN_INTERVAL = 200

/** How long the end may take where the database answers, and where it does not. */
const CLOSE_TIMEOUT = 5000
const AWAY_CLOSE_TIMEOUT = 500

/** What connection state recovery needs to know of a server's options. */
export type RecoveryTimes = Pick<
  ConstructorParameters<typeof StateRecovery>[0],
  'maxDisconnectionDuration' | 'noticeTime'
>

/** What the adapters of all namespaces share: one connection that listens, and one order of what is published. */
export class SharedLink {
  readonly recovery: StateRecovery | undefined
  readonly #pool: pg.Pool
  readonly #options: ResolvedAdapterOptions
  readonly #listener: Listener
  readonly #queue: BatchQueue
  readonly #nodes: AttachmentCleanup
  readonly #members = new Map<Member, { stop?: () => Promise<void> }>()
  /** Namespaces whose names the database does not take: they are this node's alone. */
  readonly #refused = new Map<string, Error>()
  /** Numbers of packets grow over restarts, because a node may have a fixed name. */
  #lastNumber: number
  #settled: Promise<void> = Promise.resolve()
  readonly #beats = new Set<Promise<unknown>>()
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
        await this.query(...publishStatement(tables, groups.flat() as readonly Packet[]))
        return groups.map(() => undefined)
      },
      limit: (packet) =>
        (packet as Packet).header === undefined ? NOTIFY_PAYLOAD_LIMIT - 1 : MAX_ATTACHMENT,
      repeatable: (packet) => (packet as Packet).kept !== undefined,
      // What is published before the others listen again reaches nobody. At the end nothing waits any more.
      ready: () => this.#closed || (this.#listener.state.up && !this.#missing.awaited),
      timeout: PUBLISH_TIMEOUT,
      onBatch: () => {}
    })
    this.#nodes = new AttachmentCleanup({
      ...options,
      uid: randomBytes(8).toString('hex'),
      query,
      drained: () => Promise.all([...this.#members.keys()].map(({ inbox }) => inbox.drained())),
      onError: options.errorHandler
    })
    this.#outages = new OutageReplay({
      recovery: () => (this.#recoverable ? this.recovery : undefined),
      members: () => this.#members.keys(),
      isMember: (member) => this.#members.has(member),
      isRefused: (nsp) => this.#refused.has(nsp),
      begin: (member) => this.#begin(member),
      closed: () => this.#closed,
      maxDelay: PUBLISH_TIMEOUT,
      onError: options.errorHandler
    })
    // Idle connections die with the database, and an error that nobody hears ends the process.
    guardPool(pool)
    pool.on('error', this.#onPoolError)
    this.#listener
      .listen(this.#nodes.channel, (payload) => this.#nodes.receive(payload))
      .catch(options.errorHandler)
    this.#listener.start().catch(() => {})
    this.#nodes.start()
    if (this.recovery) {
      const clean = () => this.#recoverable && this.recovery!.clean().catch(options.errorHandler)
      this.#cleaner = setInterval(clean, options.cleanupInterval).unref()
    }
  }

  /** Whether the database has said where its packets are. */
  get recoverable(): boolean {
    return this.#recoverable && !this.#closed
  }

  /** Whether what other nodes send is heard. */
  get listening(): boolean {
    return this.#listener.state.up
  }

  get size(): number {
    return this.#members.size
  }

  /** Runs one statement on the user's pool; rejects as queryPool. */
  query(text: string, values?: unknown[]): Promise<pg.QueryResult> {
    if (this.#closed) return Promise.reject(new errors.NotAccepted('the adapter is closed'))
    return queryPool(this.#pool, text, values)
  }

  /**
   * Resolves when the namespace is listened to, or at once where the database is away.
   * @throws ChannelRefused for a name that the database does not take
   */
  async add(member: Member): Promise<void> {
    const own: { stop?: () => Promise<void> } = {}
    this.#members.set(member, own)
    const channel = channelOf(this.#options.channelPrefix, member.nsp)
    let stop: () => Promise<void>
    try {
      stop = await this.#listener.listen(channel, (payload) => member.inbox.receive(payload))
    } catch (error) {
      if (error instanceof errors.ChannelRefused) this.#refused.set(member.nsp, error)
      throw error
    }
    if (!this.#members.has(member)) return stop()
    own.stop = stop
    if (this.#listener.state.up) await this.#begin(member)
  }

  /** Ends a namespace; with the last one, everything. */
  async remove(member: Member): Promise<void> {
    const own = this.#members.get(member)
    if (own === undefined) return
    const patience = this.#listener.state.up && !this.#pool.ending ? CLOSE_TIMEOUT : AWAY_CLOSE_TIMEOUT
    // Sessions are saved behind the last packets.
    const ended = Promise.all([this.#settled, this.#sessions?.idle()])
    await Promise.race([ended, sleep(patience, undefined, { ref: false })])
    this.#members.delete(member)
    this.#refused.delete(member.nsp)
    member.inbox.close()
    if (this.#members.size > 0) return own.stop?.()
    clearInterval(this.#cleaner)
    this.#nodes.stop()
    if (patience === CLOSE_TIMEOUT) await this.#nodes.tell({ leaving: true })
    this.#closed = true
    await this.#listener.close()
    this.#pool.off('error', this.#onPoolError)
  }

  /**
   * Publishes a message behind all before it; failures go to the error handler.
   * @param volatile whether it may be lost: it does not wait for a database that is away
   * @returns its number, where it is kept
   */
  publish(message: Message, volatile = false): number | undefined {
    const { channelPrefix, payloadThreshold } = this.#options
    const refusal = this.#refused.get(message.nsp)
    if (refusal !== undefined) {
      this.#failed(refusal)
      return undefined
    }
    let packet: Packet
    try {
      const origin = this.#recoverable ? message.uid : undefined
      packet = packetOf(channelPrefix, message, ++this.#lastNumber, payloadThreshold, origin)
    } catch (error) {
      this.#failed(error)
      return undefined
    }
    const published = this.#queue.publish([packet], volatile ? {} : MAY_WAIT)
    // What may not wait says nothing about what does.
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
   * Says that a node is there: at once, because that waits for nothing. The next one will do where it fails. Nothing is said
   * while it does not listen: others would send it what it cannot hear.
   */
  async beat({ uid, nsp, type }: Message): Promise<void> {
    if (!this.#listener.state.up || this.#refused.has(nsp)) return
    const channel = channelOf(this.#options.channelPrefix, nsp)
    const beat = this.query('select pg_catalog.pg_notify($1, $2)', [
      channel,
      JSON.stringify({ uid, nsp, type })
    ]).catch(() => {})
    this.#beats.add(beat)
    await beat
    this.#beats.delete(beat)
  }

  /** Resolves when what was published so far has been accepted by the database, or has failed. */
  settled(): Promise<void> {
    return this.#settled
  }

  /** Resolves when the heartbeats that are under way have been sent, in a bounded time. */
  async beaten(): Promise<void> {
    await Promise.race([Promise.all(this.#beats), sleep(AWAY_CLOSE_TIMEOUT, undefined, { ref: false })])
  }

  /** A message of another node has come. */
  heard(nsp: string, uid: string): void {
    this.#missing.heard(nsp, uid)
  }

  /** Reads rows; one that holds no message is answered with what is wrong with it. */
  async read(ids: readonly string[]): Promise<Map<string, Message | Error>> {
    const { rows } = await this.query(
      `select id::pg_catalog.text as id, payload from ${this.#options.tables.attachments} where id operator(pg_catalog.=) any($1::bigint[])`,
      [ids]
    )
    return new Map(rows.map(({ id, payload }) => [id, attempt(() => readAttachment(payload))]))
  }

  /** Saves a session, behind all that was published before it: who finds it, finds those packets. */
  save(session: SavedSession): void {
    // One that the database does not take would take the others of its statement with it.
    if (!this.#refused.has(session.nsp)) this.#sessions!.save(session)
  }

  #failed(error: unknown): void {
    this.#options.errorHandler(new errors.SocketIoNotPublished(messageOf(error)))
  }

  /** Where the tables cannot be made, packets that need none pass all the same. */
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
        this.#missing.expect(this.#members.keys())
        if (this.#recoverable) for (const { inbox } of this.#members.keys()) inbox.hold()
        errorHandler(event.error)
        break
      case 'attempt failed':
        // One report for each outage, and for the start.
        if (event.attempt === 1 && event.wait !== undefined) errorHandler(event.error)
        break
      case 'lost':
        // Its words are about an option that there is not here.
        errorHandler(
          event.error instanceof errors.CannotListen
            ? new errors.ListenerUnavailable(
                'the pool leads to a hot standby or a pooler in transaction mode, where nobody can LISTEN; createAdapter needs one that leads to the database itself'
              )
            : event.error
        )
        break
      case 'channel refused':
      case 'handler failed':
        errorHandler(asError(event.error))
        break
      case 'listening':
        this.#nodes.tell({ hello: true })
        for (const [member, { stop }] of this.#members) if (stop) this.#begin(member).catch(errorHandler)
        break
      case 'relistening':
        this.#nodes.tell({ hello: true })
        this.#missing.call({
          members: () => this.#members.keys(),
          timeout: this.#options.heartbeatTimeout,
          listening: () => this.#listener.state.up && !this.#closed
        })
        this.#outages.replay(event.gap)
        break
    }
  }

  /** The namespace is listened to: from here on nothing is missed. */
  async #begin(member: Member): Promise<void> {
    member.hello()
    while (this.#recoverable && member.position === undefined && this.#members.has(member)) {
      try {
        member.begin(await this.recovery!.last(member.nsp))
      } catch (error) {
        if (error instanceof errors.NotAccepted) throw error
        await sleep(BEGIN_INTERVAL, undefined, { ref: false })
      }
    }
  }
}
