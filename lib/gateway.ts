import type { ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Caller, Mode, Token } from './auth/index.js'
import { Bridge } from './bridge.js'
import { type Leaving, SHUTTING_DOWN, type Transport, whenGone } from './clients/index.js'
import { errors, fullMessageOf } from './errors.js'
import { HeldAnswer } from './flow/index.js'
import { senderOf } from './messages/index.js'
import type { Metrics } from './metrics.js'
import { buildParts, type GatewayOptions, type Parts, type Protocols } from './parts.js'
import { SETTINGS_CHANNEL } from './postgres/index.js'

/** How long the start waits before it asks the pool again, in milliseconds. */
const POOL_RETRY = 1000

/** A running server: how it starts and ends, how clients come in, and what its supervisor tells it. */
export class Gateway {
  /** What the application is given of it. */
  readonly bridge: Bridge
  readonly #parts: Parts
  /** Why the pool has not said yet what is durable. */
  #poolFailure: string | undefined = 'no answer yet'
  #closed: Promise<void> | undefined

  constructor(options: GatewayOptions) {
    this.#parts = buildParts(options)
    this.bridge = new Bridge(this.#parts)
  }

  get metrics(): Metrics {
    return this.#parts.metrics
  }

  /** Whom an accepted socket, or the response to a client that has been admitted, is handed to. */
  get protocols(): Protocols {
    return this.#parts.protocols
  }

  /** True once the server has begun to end: no new socket is taken. */
  get closing(): boolean {
    return this.#parts.clients.closing
  }

  /**
   * Starts to listen, and goes on trying until the database says what is durable.
   * @param onFailure told of each try of the pool that has failed
   * @throws ListenerUnavailable where the listener is not supervised and the database cannot be reached;
   *   CannotListen; SchemaTooNew; ChannelRefused for a channel that the options name; ShuttingDown
   */
  async start(onFailure: (error: Error) => void = () => {}): Promise<void> {
    const { audiences } = this.#parts
    const { listener, listenChannel } = this.#parts.options
    this.#parts.notificationQueue.start()
    this.#parts.retention.start()
    // Before LISTEN: what is committed after this look is notified.
    await this.#askPool(onFailure)
    await Promise.all([
      this.#require(SETTINGS_CHANNEL, () => {
        this.#parts.replay.refreshLater()
      }),
      this.#require(listenChannel, (payload) => this.#parts.incoming.receive(payload)),
      this.#require(this.#parts.cluster.channel, (payload) => this.#parts.cluster.receive(payload)),
      ...[...audiences.databaseChannels].map((name) =>
        this.#require(name, (payload) => audiences.receive(name, payload))
      ),
      listener.start()
    ])
    await this.#parts.cluster.hello()
    // The schema may have been installed by the start.
    while (!(await this.#askPool(onFailure))) {
      if (this.closing) throw new errors.ShuttingDown()
      await sleep(POOL_RETRY, undefined, { ref: false })
    }
    this.#parts.durable.known = true
  }

  /** What `start()` waits for; empty once it has succeeded. For the log: it may tell where the database is. */
  get awaited(): string[] {
    if (this.#parts.durable.known) return []
    const failure = this.#poolFailure
    return [
      ...(this.#parts.options.listener.state.up ? [] : ['the listening connection']),
      ...(failure === undefined ? [] : [`the publishing connections (${failure})`])
    ]
  }

  /** @returns whether the pool has said what is durable */
  async #askPool(onFailure: (error: Error) => void): Promise<boolean> {
    const failure = await this.#parts.replay.tryRefresh()
    // What it means to clients is not to the point.
    this.#poolFailure = failure && fullMessageOf(failure.cause ?? failure)
    if (failure !== undefined) onFailure(failure)
    return failure === undefined
  }

  /** See Authorizer.authorize. */
  authorize(token: Token, channels: readonly string[], mode: Mode): Promise<Caller | undefined> {
    return this.#parts.authorizer.authorize(token, channels, mode)
  }

  /** To be called before a large answer is sent: where too much waits for clients, the slowest are ended. */
  holdAnswer(response: ServerResponse, bytes: Buffer): void {
    new HeldAnswer(response, bytes, this.#parts.clients.flow)
  }

  /**
   * Lets a client in, the last thing before it is accepted: counts it, and listens to its raw channels, for as long
   * as its transport lives.
   * @param channels those that it reads
   * @throws TooManyConnections (503), TooManyConnectionsFromAddress (429), BadAddress (400) for a name that no database
   *   channel can have, ListenerUnavailable (503)
   */
  async admit(transport: Transport, ip: string, channels: readonly string[] = []): Promise<void> {
    whenGone(transport, await this.#parts.rawChannels.join(channels))
    this.#parts.clients.admit(transport, ip)
  }

  /** @throws NotInstalled (501) where a client asks for what needs the schema */
  requireDurable(): void {
    this.#parts.durable.require()
  }

  /** @throws NoPresence (404) where none of some channels is a presence channel */
  requirePresence(channels: readonly string[]): void {
    if (!channels.some((channel) => this.#parts.presence.has(channel))) throw new errors.NoPresence()
  }

  /**
   * To be called when the listener is about to prove that it is alive.
   * @returns to be called when it has
   */
  listenerProbed(): () => void {
    return this.#parts.replay.probe()
  }

  /** To be called when the listener was lost: something may be missing before what comes next. */
  listenerLost(): void {
    this.#parts.replay.listenerLost()
  }

  /** To be called when the listener is back: replays what durable channels missed, and tells of the gap. */
  listenerReconnected(gap: number): void {
    this.#parts.replay.listenerReconnected()
    this.#parts.cluster.hello()
    for (const protocol of Object.values(this.#parts.protocols)) protocol.listenerReconnected()
    this.bridge.emit('reconnected', { gap })
    this.#parts.publisher.tellMeta('ListenerReconnected', { gap }, senderOf({}))
  }

  /**
   * Closes all sockets and finishes what is being published; asked again, it is the same end.
   * @param leaving with what word
   */
  close(leaving: Leaving = SHUTTING_DOWN): Promise<void> {
    this.#closed ??= this.#close(leaving)
    return this.#closed
  }

  async #close(leaving: Leaving): Promise<void> {
    const { shutdownTimeout, log } = this.#parts.options
    this.#parts.retention.stop()
    this.#parts.replay.stop()
    this.#parts.hub.flush()
    for (const protocol of Object.values(this.#parts.protocols)) protocol.close()
    await this.#parts.clients.close(shutdownTimeout * 0.6, leaving)
    await this.#parts.publisher.idle(shutdownTimeout * 0.2)
    const { queuedBytes } = this.#parts.publisher
    if (queuedBytes > 0)
      log.error({ queuedBytes }, 'shutting down although the database has not accepted all messages')
    await Promise.race([
      this.#parts.cluster.goodbye(),
      sleep(shutdownTimeout * 0.1, undefined, { ref: false })
    ])
    this.#parts.notificationQueue.stop()
    this.#parts.incoming.close()
    this.#parts.losses.stop()
  }

  /** Listens to what the options name; the start fails where the database refuses it. */
  #require(databaseChannel: string, handler: (payload: string) => void): Promise<unknown> {
    return this.#parts.options.listener.listen(databaseChannel, handler, { required: true })
  }
}
