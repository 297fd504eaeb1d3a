import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { reconnectBackoff, startBackoff } from '../backoff.js'
import { asError, errors, isRefusal, messageOf } from '../errors.js'
import { checkDatabaseChannel } from '../postgres/index.js'
import { withResolvers } from '../with-resolvers.js'
import { deadline, destroy, Silence } from './deadline.js'
import type { Handler, ListenerOptions, ListenerState, ListenOptions } from './listener-options.js'
import { type ListeningSession, listenTo, openSession, sqlstateOfStatement } from './listening-session.js'
import { Probe } from './probe.js'

/** Errors that retrying does not help. */
const FOR_GOOD = [
  errors.CannotListen,
  errors.ChannelRefused,
  errors.SchemaTooNew,
  errors.FunctionMissing,
  errors.NotInstalled
]

/**
 * A dedicated connection that LISTENs. With supervision, it proves at an interval that notifications arrive on this very
 * connection. If they do not, the connection is replaced, and listens to all channels again.
 */
export class Listener {
  readonly #options: ListenerOptions
  readonly #handlers = new Map<string, Set<Handler>>()
  readonly #probe = new Probe()
  readonly #stop = new AbortController()
  readonly #required = new Set<string>()
  /** Channels whose LISTEN has committed on the current connection. */
  #listening = new Set<string>()
  #session: ListeningSession | undefined
  #ready = withResolvers<void>()
  #run: Promise<void> | undefined
  #upSince: number | undefined
  /** From when on notifications may have been lost (`performance.now()`, as the next times). */
  #downSince: number | undefined
  #connectedAt = 0
  #lastProvenAlive: number | undefined
  /** When the last data came from the database. */
  #lastHeard = 0
  #reconnects = 0
  #gapMilliseconds = 0
  #checked = false

  constructor(options: ListenerOptions) {
    this.#options = options
    // Without a handler, the rejection would end the process.
    this.#ready.promise.catch(() => {})
  }

  get state(): ListenerState {
    return {
      up: this.#upSince !== undefined,
      upSince: this.#upSince,
      lastProvenAlive: this.#lastProvenAlive,
      reconnects: this.#reconnects,
      gapMilliseconds: this.#gapMilliseconds
    }
  }

  /**
   * Starts the listener.
   * @returns a promise that resolves when the first LISTEN has committed. It rejects if the listener is closed before, and,
   *   without supervision, if all attempts have failed.
   */
  start(): Promise<void> {
    this.#run ??= this.#supervise()
    return this.#ready.promise
  }

  /**
   * Calls a function with the payload of each notification on a database channel.
   * @param channel its name, at most 63 bytes; any characters except NUL
   * @returns a promise that resolves when LISTEN has committed, or at once while the connection is lost (the channel is then
   *   listened to when it is back). It resolves with a function that ends the subscription.
   * @throws BadMessage for an invalid name; ChannelRefused (400) for a name that this database refuses;
   *   ListenerUnavailable (503) if LISTEN fails for another reason, or, with `now`, while the connection is lost
   */
  async listen(
    channel: string,
    handler: Handler,
    { now = false, required = false }: ListenOptions = {}
  ): Promise<() => Promise<void>> {
    checkDatabaseChannel(channel)
    if (now && !this.state.up) throw new errors.ListenerUnavailable('this server is not connected to it')
    if (required) this.#required.add(channel)
    const own: Handler = (payload) => handler(payload)
    const handlers = this.#handlers.get(channel)
    if (handlers !== undefined) {
      handlers.add(own)
    } else {
      this.#handlers.set(channel, new Set([own]))
    }
    try {
      // Also for a second handler, because the LISTEN for the first one may not have committed yet.
      await this.#listenTo(channel, now)
    } catch (error) {
      this.#forget(channel, own)
      throw error
    }
    return async () => {
      if (this.#forget(channel, own)) await this.#unlisten(channel)
    }
  }

  /** Closes the connection. No handler is called any more. */
  async close(): Promise<void> {
    this.#stop.abort()
    this.#handlers.clear()
    this.#ready.reject(new errors.ShuttingDown())
    destroy(this.#session?.client, new Error('closed'))
    // A connection attempt in progress ends at its own deadline. Do not wait for it.
    await Promise.race([this.#run, sleep(500, undefined, { ref: false })])
  }

  async #supervise(): Promise<void> {
    const { checkInterval, retries, onEvent } = this.#options
    let failures = 0
    while (!this.#stop.signal.aborted) {
      try {
        const client = await this.#connect()
        failures = 0
        const error = await this.#watch(client)
        const now = performance.now()
        // A silent connection may have lost everything after the last sign of life.
        this.#downSince = error instanceof Silence ? this.#lastHeard : now
        this.#upSince = undefined
        if (this.#stop.signal.aborted) return
        if (checkInterval === 0) {
          onEvent({ type: 'lost', error })
          return
        }
        onEvent({ type: 'connection lost', error })
        // A connection that breaks again and again must not cause a busy loop.
        if (now - this.#connectedAt < 1000) await this.#pause(reconnectBackoff(1))
      } catch (error) {
        if (this.#stop.signal.aborted) return
        failures++
        const never = FOR_GOOD.some((kind) => error instanceof kind) || (!this.#checked && isRefusal(error))
        const last = never || (checkInterval === 0 && failures >= retries)
        const wait = this.#downSince === undefined ? startBackoff(failures) : reconnectBackoff(failures)
        onEvent({
          type: 'attempt failed',
          error: asError(error),
          attempt: failures,
          wait: last ? undefined : wait
        })
        if (last) {
          const reason = never ? asError(error) : new errors.ListenerUnavailable(messageOf(error))
          this.#ready.reject(reason)
          onEvent({ type: 'lost', error: reason })
          return
        }
        await this.#pause(wait)
      }
    }
  }

  async #pause(milliseconds: number): Promise<void> {
    await sleep(milliseconds, undefined, { signal: this.#stop.signal }).catch(() => {})
  }

  async #connect(): Promise<pg.Client> {
    const client = await this.#options.connect()
    client.on('error', () => {})
    try {
      client.on('notification', ({ channel, payload }) => this.#receive(client, channel, payload ?? ''))
      const { check, prepare } = this.#options
      // First of all, because a session that a pooler shares must not be changed.
      if (!this.#checked && check !== undefined) await deadline(check(client))
      const session = await deadline(openSession(client))
      if (!this.#checked) await prepare?.(client)
      this.#checked = true
      this.#session = session
      // Channels that are added from here on are listened to on this connection, too.
      this.#listening = new Set()
      const channels = [...this.#handlers.keys()]
      const refused = await deadline(listenTo(session, [this.#probe.channel, ...channels]))
      this.#noteRefused(refused)
      for (const name of channels) {
        if (this.#handlers.has(name) && !refused.has(name)) this.#listening.add(name)
      }
      if (this.#stop.signal.aborted) throw new Error('closed')
    } catch (error) {
      destroy(client, asError(error))
      throw error
    }
    const now = performance.now()
    this.#upSince = Date.now()
    this.#lastProvenAlive = this.#upSince
    this.#connectedAt = now
    this.#lastHeard = now
    if (this.#downSince === undefined) {
      this.#options.onEvent({ type: 'listening' })
    } else {
      // Rather too long than too short.
      const gap = Math.ceil(now - this.#downSince)
      this.#reconnects++
      this.#gapMilliseconds += gap
      this.#options.onEvent({ type: 'relistening', gap })
    }
    this.#ready.resolve()
    return client
  }

  /** Resolves with the reason when the connection is lost, or can no longer prove that it is alive. */
  async #watch(client: pg.Client): Promise<Error> {
    let onEnd = (_error: Error) => {}
    const ended = new Promise<Error>((resolve) => {
      onEnd = resolve
      client.once('error', (error: NodeJS.ErrnoException) =>
        // TCP keep-alive got no answer.
        resolve(error.code === 'ETIMEDOUT' ? new Silence(error.message) : error)
      )
      client.once('end', () => resolve(new Error('the connection ended')))
    })
    const { checkInterval } = this.#options
    let timer: NodeJS.Timeout | undefined
    if (checkInterval > 0) {
      timer = setInterval(() => {
        this.#prove(client).catch((error) => {
          onEnd(error)
          destroy(client, error)
        })
      }, checkInterval)
    }
    const error = await ended
    clearInterval(timer)
    if (this.#session?.client === client) this.#session = undefined
    destroy(client, error)
    return error
  }

  /** Proves that this connection listens to every channel, and that a notification arrives on it in time. */
  async #prove(client: pg.Client): Promise<void> {
    if (this.#probe.underWay) return
    const onArrived = this.#options.onProbe?.()
    if (!(await this.#probe.send(client, () => this.#listening))) return
    this.#lastProvenAlive = Date.now()
    this.#lastHeard = performance.now()
    onArrived?.()
  }

  #receive(client: pg.Client, channel: string, payload: string): void {
    // A connection that was replaced may still have notifications in its buffers.
    if (client !== this.#session?.client) return
    if (channel === this.#probe.channel) {
      this.#probe.receive(payload)
      return
    }
    this.#lastHeard = performance.now()
    for (const handler of this.#handlers.get(channel) ?? []) {
      try {
        handler(payload)
      } catch (error) {
        this.#options.onEvent({ type: 'handler failed', error })
      }
    }
  }

  /** Leaves out refused channels, unless they are required. */
  #noteRefused(refused: Map<string, Error>): void {
    for (const [channel, error] of refused) {
      if (this.#required.has(channel)) throw error
      this.#options.onEvent({ type: 'channel refused', channel, error })
    }
  }

  async #listenTo(channel: string, now: boolean): Promise<void> {
    const session = this.#session
    if (session === undefined) {
      if (now) throw new errors.ListenerUnavailable('the connection broke')
      return
    }
    let refusal: Error | undefined
    try {
      refusal = (await deadline(listenTo(session, [channel]))).get(channel)
    } catch (error) {
      // The session and its other channels are not affected.
      const sqlstate = sqlstateOfStatement(error)
      if (sqlstate !== undefined) {
        throw new errors.ListenerUnavailable(`it answered with SQLSTATE ${sqlstate}`, {
          cause: asError(error)
        })
      }
      // A connection that does not answer is replaced. The supervisor then listens to all channels again.
      destroy(session.client, asError(error))
      if (now) throw new errors.ListenerUnavailable('the connection broke')
      return
    }
    if (refusal !== undefined) throw refusal
    if (session === this.#session && this.#handlers.has(channel)) this.#listening.add(channel)
  }

  async #unlisten(channel: string): Promise<void> {
    const client = this.#session?.client
    if (client === undefined) return
    try {
      await deadline(client.query(`UNLISTEN ${pg.escapeIdentifier(channel)}`))
    } catch (error) {
      destroy(client, asError(error))
    }
  }

  /** @returns whether the channel has no handlers left */
  #forget(channel: string, own: Handler): boolean {
    const handlers = this.#handlers.get(channel)
    if (!handlers?.delete(own) || handlers.size > 0) return false
    this.#handlers.delete(channel)
    this.#listening.delete(channel)
    return true
  }
}
