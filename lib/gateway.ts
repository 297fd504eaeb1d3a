import type { ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Caller, Mode, Token } from './auth/index.js'
import { Bridge } from './bridge.js'
import { type Leaving, type Refusal, SHUTTING_DOWN, type Transport, whenEnded } from './clients/index.js'
import type { NodeStatsSummary } from './cluster/index.js'
import { errors, fullMessageOf } from './errors.js'
import type { AddedFields, EventLog, ServerEvent } from './events/index.js'
import { eventsOf, type FeedQuery, type FeedWriter, startFeed } from './feed.js'
import { HeldAnswer } from './flow/index.js'
import type { GatewayOptions } from './gateway-options.js'
import { readAnnouncement, senderOf } from './messages/index.js'
import type { Metrics } from './metrics.js'
import { buildParts, type Parts, type Protocols } from './parts.js'
import {
  ANNOUNCEMENTS_CHANNEL,
  REVOCATIONS_CHANNEL,
  SETTINGS_CHANNEL,
  VACANCY_CHANNEL
} from './postgres/index.js'
import { Sampler } from './sampler.js'

/** How long the start waits before it queries the pool again, in milliseconds. */
const POOL_RETRY = 1000

/** A running server: its start and shutdown, the admission of clients, and the events of its listener. */
export class Gateway {
  /** What `fastify.pgws` offers to the application. */
  readonly bridge: Bridge
  readonly #parts: Parts
  readonly #sampler: Sampler
  /** Why the retention rules could not be read yet. */
  #poolFailure: string | undefined = 'no answer yet'
  #closed: Promise<void> | undefined

  constructor(options: GatewayOptions) {
    this.#parts = buildParts(options)
    const sampler = new Sampler(this.#parts)
    this.#sampler = sampler
    const { events, cluster } = this.#parts
    cluster.attach({
      events: () => events.list(),
      samples: () => sampler.samples,
      latest: () => sampler.latest(),
      followEvents: (listener) => events.follow(listener),
      followStats: (listener) => sampler.follow(listener)
    })
    this.bridge = new Bridge(this.#parts)
  }

  get metrics(): Metrics {
    return this.#parts.metrics
  }

  /** The last events of this node. */
  get events(): EventLog {
    return this.#parts.events
  }

  /**
   * Logs what an administrator has done, and adds it to the events.
   * @param subject the claim `sub` of the administrator's token
   * @param text what was done, in the past tense, without a subject: `closed 3 connections of the channel "chat"`
   * @param fields what it was done to, and to how many
   */
  administered(
    subject: string | undefined,
    text: string,
    fields: Pick<AddedFields, 'connection' | 'channels' | 'code' | 'reason' | 'count'> = {}
  ): void {
    const sentence = `${subject === undefined ? 'an administrator' : `the administrator ${JSON.stringify(subject)}`} ${text}`
    this.#parts.options.log.info({ subject, ...fields }, sentence)
    this.#parts.events.add('admin', { ...fields, subject, text: sentence })
  }

  /** See eventsOf. */
  listEvents(
    query: Pick<FeedQuery, 'scope' | 'types'>,
    onMissing?: (nodes: string[]) => void
  ): Promise<ServerEvent[]> {
    return eventsOf(this.#parts, query, onMissing)
  }

  /** See startFeed. */
  startFeed(query: FeedQuery, writer: FeedWriter): () => void {
    return startFeed(this.#parts, this.#sampler, query, writer)
  }

  /** See Cluster.nodesWithStats. */
  nodesWithStats(): Promise<NodeStatsSummary[]> {
    return this.#parts.cluster.nodesWithStats()
  }

  /** Counts and logs a handshake that was refused, and adds it to the events. */
  refused(refusal: Refusal): void {
    this.#parts.clients.refused(refusal)
  }

  /** The protocols, which take over accepted sockets and the responses to admitted clients. */
  get protocols(): Protocols {
    return this.#parts.protocols
  }

  /** Whether the server is shutting down, so that no client is admitted. */
  get closing(): boolean {
    return this.#parts.clients.closing
  }

  /**
   * Starts to listen, and retries until the retention rules have been read.
   * @param onFailure is called for each failed attempt of the pool
   * @throws ListenerUnavailable if the listener is not supervised and the database is unavailable; CannotListen;
   *   SchemaTooNew; ChannelRefused for a channel that an option names; ShuttingDown
   */
  async start(onFailure: (error: Error) => void = () => {}): Promise<void> {
    const { audiences, cluster } = this.#parts
    const { listener, listenChannel } = this.#parts.options
    this.#parts.notificationQueue.start()
    this.#parts.retention.start()
    this.#parts.revocationList.start()
    // Before LISTEN. Changes that are committed later cause a notification.
    await this.#askPool(onFailure)
    const { bus, durable } = this.#parts
    if (!bus.announces) await this.#startBus()
    await Promise.all([
      this.#require(SETTINGS_CHANNEL, () => {
        // The schema may have been installed.
        this.#parts.replay.refreshLater().then(() => {
          this.#parts.revocationList.reload()
          this.#parts.bus.refresh()
        })
      }),
      this.#require(listenChannel, (payload) => this.#parts.incoming.receive(payload)),
      this.#require(ANNOUNCEMENTS_CHANNEL, (payload) => this.#announce(payload)),
      this.#require(VACANCY_CHANNEL, () => this.#parts.sequencer.vacant()),
      this.#require(REVOCATIONS_CHANNEL, (payload) => this.#parts.revocationList.receive(payload)),
      this.#require(cluster.channel, (payload) => {
        if (bus.announces) cluster.overhear(payload)
        else this.#parts.notifyBus.receive(payload)
      }),
      ...[...audiences.databaseChannels].map((name) =>
        this.#require(name, (payload) => audiences.receive(name, payload))
      ),
      listener.start()
    ])
    if (!bus.announces) await cluster.hello()
    // The listener's start may have installed the schema.
    while (!(await this.#askPool(onFailure))) {
      if (this.closing) throw new errors.ShuttingDown()
      await sleep(POOL_RETRY, undefined, { ref: false })
    }
    await this.#parts.revocationList.reload()
    if (bus.announces) {
      // It is named by what the database says of itself.
      durable.require()
      await this.#startBus()
      await cluster.hello()
    }
    durable.known = true
    // So that the first figures of the node's health are true.
    await this.#parts.notificationQueue.check()
    if (!this.closing) this.#sampler.start()
    if (!this.closing) this.#parts.sequencer.start()
  }

  async #startBus(): Promise<void> {
    const { bus, busWatch, cluster, incoming, sequencer } = this.#parts
    await bus.start({
      announced: (announcement) => incoming.receiveAnnounced(announcement),
      beat: (beat) => {
        busWatch?.beat()
        incoming.beat(beat)
      },
      received: (text) => cluster.receive(text),
      interrupted: (error) => busWatch?.interrupted(error),
      restored: () => {
        busWatch?.restored()
        sequencer.busRestored()
        cluster.hello()
      }
    })
    busWatch?.start()
  }

  #announce(payload: string): void {
    const { durable, incoming, options } = this.#parts
    if (durable.secret === undefined) return
    const announcement = readAnnouncement(payload, durable.secret, options.listenChannel)
    if (announcement !== undefined) incoming.announce(announcement)
  }

  /** What `start()` waits for; empty once it has succeeded. For the log only: it may say where the database is. */
  get awaited(): string[] {
    if (this.#parts.durable.known) return []
    const failure = this.#poolFailure
    return [
      ...(this.#parts.options.listener.state.up ? [] : ['the listening connection']),
      ...(failure === undefined ? [] : [`the publishing connections (${failure})`])
    ]
  }

  /** @returns whether the retention rules have been read */
  async #askPool(onFailure: (error: Error) => void): Promise<boolean> {
    const failure = await this.#parts.replay.tryRefresh()
    // The cause without its meaning for clients.
    this.#poolFailure = failure && fullMessageOf(failure.cause ?? failure)
    if (failure !== undefined) onFailure(failure)
    return failure === undefined
  }

  /** See Authorizer.authorize. */
  authorize(token: Token, channels: readonly string[], mode: Mode): Promise<Caller | undefined> {
    return this.#parts.authorizer.authorize(token, channels, mode)
  }

  /** To be called before a large answer is sent. If too much waits for clients then, the slowest are closed. */
  holdAnswer(response: ServerResponse, bytes: Buffer): void {
    new HeldAnswer(response, bytes, this.#parts.clients.flow)
  }

  /**
   * Admits a client, as the last step before it is accepted. Counts it against the limits, and listens to its raw
   * channels, for as long as its transport lives.
   * @param channels the channels that it reads, and presence channels
   * @throws TooManyConnections (503), TooManyConnectionsFromAddress (429), BadAddress (400) for a name that a database
   *   channel cannot have, ChannelRefused (400), ListenerUnavailable (503)
   */
  async admit(transport: Transport, ip: string, channels: readonly string[] = []): Promise<void> {
    whenEnded(transport, await this.#parts.listened.join(channels))
    this.#parts.clients.admit(transport, ip)
  }

  /** @throws NotInstalled (501) if the schema is not installed */
  requireDurable(): void {
    this.#parts.durable.require()
  }

  /** @throws NoPresence (404) if none of the channels tracks presence */
  requirePresence(channels: readonly string[]): void {
    if (!channels.some((channel) => this.hasPresence(channel))) throw new errors.NoPresence()
  }

  /** Whether a channel tracks presence. */
  hasPresence(channel: string): boolean {
    return this.#parts.presence.has(channel)
  }

  /**
   * To be called before the listener sends a probe.
   * @returns a function to call when the probe has arrived
   */
  listenerProbed(): () => void {
    return this.#parts.replay.probe()
  }

  /** To be called when the listener's connection was lost, because notifications may be missing. */
  listenerLost(): void {
    this.#parts.replay.lost('listener')
  }

  /** To be called when the listener is connected again: replays durable channels, and publishes the gap. */
  listenerReconnected(gap: number): void {
    this.#parts.replay.reconnected('listener')
    this.#parts.revocationList.reload()
    this.#parts.cluster.hello()
    for (const protocol of Object.values(this.#parts.protocols)) protocol.listenerReconnected()
    this.bridge.emit('reconnected', { gap })
    this.#parts.publisher.publishMetaEvent('ListenerReconnected', { gap }, senderOf({}))
  }

  /**
   * Closes all clients, and publishes what they have sent. Called again, it returns the same promise.
   * @param leaving the close code and reason
   */
  close(leaving: Leaving = SHUTTING_DOWN): Promise<void> {
    this.#closed ??= this.#close(leaving)
    return this.#closed
  }

  async #close(leaving: Leaving): Promise<void> {
    const { shutdownTimeout, log } = this.#parts.options
    this.#parts.retention.stop()
    this.#parts.revocationList.stop()
    this.#parts.busWatch?.stop()
    this.#parts.replay.stop()
    this.#parts.hub.flush()
    for (const protocol of Object.values(this.#parts.protocols)) protocol.close()
    await this.#parts.clients.close(shutdownTimeout * 0.6, leaving)
    await this.#parts.publisher.idle(shutdownTimeout * 0.2)
    const { queuedBytes } = this.#parts.publisher
    if (queuedBytes > 0)
      log.error({ queuedBytes }, 'shutting down although the database has not accepted all messages')
    const { sequencer, cluster, bus } = this.#parts
    await Promise.race([
      Promise.all([sequencer.stop(), cluster.goodbye()]).then(() => bus.close()),
      sleep(shutdownTimeout * 0.1, undefined, { ref: false })
    ])
    this.#parts.notificationQueue.stop()
    this.#parts.incoming.close()
    this.#parts.losses.stop()
    this.#parts.events.stop()
    this.#sampler.stop()
  }

  /** Listens to a channel that an option names. The start fails if the database refuses it. */
  #require(databaseChannel: string, handler: (payload: string) => void): Promise<unknown> {
    return this.#parts.options.listener.listen(databaseChannel, handler, { required: true })
  }
}
