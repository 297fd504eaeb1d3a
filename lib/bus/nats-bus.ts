import { setImmediate as nextTurn, setTimeout as timeout } from 'node:timers/promises'
import type { Authenticator } from '@nats-io/transport-node'
import { reconnectBackoff } from '../backoff.js'
import { asError, errors, messageOf } from '../errors.js'
import type { Log } from '../log.js'
import type { Announcement, Audience, Beat, Bus, BusHandlers } from './bus.js'
import { NatsConnection } from './nats-connection.js'
import { authenticatorOf, loadNats, type NatsModule } from './nats-credentials.js'
import { explain } from './nats-errors.js'
import { readServer, shuffled } from './nats-servers.js'
import { decode, encodeAnnouncement, encodeBeat, encodeText, Subjects } from './nats-wire.js'

export interface NatsBusOptions {
  /** Servers of one cluster, `nats://host:port` or `tls://host:port`. */
  servers: readonly string[]
  /** A creds file's text, the seed of an nkey, `user:password`, or a token. */
  credentials: string | undefined
  /** Certificates in PEM that are trusted instead of those of Node.js. */
  ca: string | undefined
  /** What all subjects begin with. It is asked for with each connection. */
  prefix: () => string
  /** This node's id: see newNodeId. */
  node: string
  log: Log
}

/** How many channels are subscribed in a turn of the event loop after a connection was lost: some 3 ms. */
const SUBSCRIBED_A_TURN = 250

/** Why a connection is replaced when the prefix has changed. */
const OTHER_DATABASE = 'the database is another one now, so it has another bus'

/** After how many characters a server is asked to confirm, so that a slow line is not taken for a dead one. */
const CONFIRMED_AT_ONCE = 1024 * 1024

/** How long `start` waits for a connection, in milliseconds. The attempt goes on after that. */
const START_TIMEOUT = 5000

/** A connection that has lasted this long, in milliseconds, was a good one: the next attempt comes at once. */
const GOOD_CONNECTION = 5000

/**
 * NATS (https://nats.io), which carries messages to the nodes that have joined their channels, and to no others. Only its
 * core is used: nothing is stored there.
 */
export class NatsBus implements Bus {
  readonly name = 'nats'
  readonly announces = true
  readonly #options: NatsBusOptions
  readonly #servers: readonly URL[]
  readonly #channels = new Set<string>()
  #handlers: BusHandlers | undefined
  #nats: NatsModule | undefined
  #authenticator: Authenticator | undefined
  #subjects: Subjects
  /** The connection on which channels are subscribed. It may not be established yet. */
  #connection: NatsConnection | undefined
  /** When the connection was established; undefined while there is none. */
  #upSince: number | undefined
  #failures = 0
  #lastProblem = ''
  #timer: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: NatsBusOptions) {
    this.#options = options
    this.#servers = options.servers.map(readServer)
    this.#subjects = new Subjects('')
  }

  get up(): boolean {
    return this.#upSince !== undefined
  }

  async start(handlers: BusHandlers): Promise<void> {
    const { credentials } = this.#options
    const nats = await loadNats()
    this.#authenticator = credentials === undefined ? undefined : authenticatorOf(nats, credentials)
    this.#nats = nats
    this.#handlers = handlers
    const first = this.#connect()
    const slow = timeout(START_TIMEOUT, 'slow' as const, { ref: false })
    try {
      if ((await Promise.race([first, slow])) !== 'slow') return
    } catch (error) {
      if (error instanceof errors.InvalidOption) {
        this.#closed = true
        throw error
      }
      this.#retryLater(error)
      return
    }
    void this.#afterwards(first)
  }

  async join(channel: string): Promise<void> {
    this.#channels.add(channel)
    const connection = this.#connection
    if (connection === undefined) return
    this.#subscribe(connection, channel)
    // If the connection is lost, `interrupted` says so.
    await connection.confirmTogether().catch(() => {})
  }

  leave(channel: string): void {
    this.#channels.delete(channel)
    this.#connection?.unsubscribe(this.#subjects.channel(channel))
  }

  async announce(batch: readonly Announcement[], beat?: Beat): Promise<void> {
    const connection = this.#connected()
    const subjects = this.#subjects
    const { maxPayload } = connection
    try {
      let unconfirmed = 0
      for (const announcement of batch) {
        const text = encodeAnnouncement(announcement, maxPayload)
        connection.publish(subjects.channel(announcement.channel), text)
        unconfirmed += text.length
        if (unconfirmed < CONFIRMED_AT_ONCE) continue
        await connection.confirm()
        unconfirmed = 0
      }
      if (beat !== undefined) {
        for (const text of encodeBeat(beat, maxPayload)) connection.publish(subjects.beats, text)
      }
      await connection.confirm()
    } catch (error) {
      throw interrupted(error)
    }
  }

  async send(to: Audience, texts: readonly string[]): Promise<void> {
    const connection = this.#connected()
    const subject =
      to === 'all'
        ? this.#subjects.all
        : 'node' in to
          ? this.#subjects.node(to.node)
          : this.#subjects.channel(to.channel)
    const channel = to !== 'all' && 'channel' in to ? to.channel : undefined
    try {
      for (const text of texts) connection.publish(subject, encodeText(text, channel))
    } catch (error) {
      throw interrupted(error)
    }
  }

  async refresh(): Promise<void> {
    if (this.up && this.#options.prefix() !== this.#subjects.prefix) {
      this.#connection?.fail(new Error(OTHER_DATABASE))
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#handlers = undefined
    clearTimeout(this.#timer)
    const connection = this.#connection
    // What was sent last must have left this process.
    if (this.up) await connection?.confirm().catch(() => {})
    this.#upSince = undefined
    this.#connection = undefined
    connection?.fail(new Error('the bus is closed'))
  }

  #connected(): NatsConnection {
    if (this.up && this.#connection !== undefined) return this.#connection
    throw interrupted()
  }

  /** Connects to one of the servers, in random order, so that nodes spread over them. */
  async #connect(): Promise<void> {
    const failures: Error[] = []
    for (const server of shuffled(this.#servers)) {
      try {
        await this.#connectTo(server)
        return
      } catch (error) {
        failures.push(asError(error))
      }
      if (this.#closed) break
    }
    const refusal = failures.find((error) => error instanceof errors.InvalidOption)
    throw refusal ?? (failures.length === 1 ? failures[0] : new AggregateError(failures, ''))
  }

  async #connectTo(server: URL): Promise<void> {
    const { credentials, ca, node } = this.#options
    const subjects = new Subjects(this.#options.prefix())
    let connection: NatsConnection | undefined
    try {
      connection = await NatsConnection.open({
        nats: this.#nats!,
        server,
        authenticator: this.#authenticator,
        ca,
        name: `fastify-pg-websockets ${node}`,
        onLost: (error) => this.#lost(connection, error)
      })
      if (this.#closed) throw new Error('the bus is closed')
      this.#subjects = subjects
      this.#connection = connection
      const own = [subjects.beats, subjects.all, subjects.node(node)]
      for (const subject of own) connection.subscribe(subject, (bytes) => this.#receive(bytes, undefined))
      // An empty message is ignored, but the server says whether it may be sent.
      for (const subject of [...own, subjects.nobody]) connection.publish(subject, '')
      connection.subscribe(subjects.nobody, () => {})
      await connection.confirm()
      connection.unsubscribe(subjects.nobody)
      let count = 0
      // Iterating over a set includes what is added meanwhile.
      for (const channel of this.#channels) {
        this.#subscribe(connection, channel)
        if (++count % SUBSCRIBED_A_TURN === 0) await nextTurn()
      }
      await connection.confirm()
      if (this.#closed) throw new Error('the bus is closed')
      if (this.#options.prefix() !== subjects.prefix) throw new Error(OTHER_DATABASE)
    } catch (error) {
      this.#connection = undefined
      connection?.fail(asError(error))
      throw explain(error, {
        server: server.host,
        hasCredentials: credentials !== undefined,
        prefix: subjects.prefix
      })
    }
    this.#upSince = performance.now()
    this.#lastProblem = ''
  }

  #subscribe(connection: NatsConnection, channel: string): void {
    connection.subscribe(this.#subjects.channel(channel), (bytes) => this.#receive(bytes, channel))
  }

  /** @param channel undefined on the subjects of nodes and beats */
  #receive(bytes: Uint8Array, channel: string | undefined): void {
    const received = decode(bytes, channel)
    const handlers = this.#handlers
    if (received === undefined || handlers === undefined) return
    try {
      if (received.kind === 'announced') handlers.announced(received.announcement)
      else if (received.kind === 'beat') handlers.beat(received.beat)
      else handlers.received(received.text)
    } catch (error) {
      // Otherwise the client of NATS would close the connection.
      this.#options.log.error({ err: error }, 'a message of the bus (PGWS_BUS) could not be handled')
    }
  }

  #lost(connection: NatsConnection | undefined, error: Error): void {
    // A connection that was not established yet is handled where it was opened.
    if (connection === undefined || connection !== this.#connection || this.#upSince === undefined) return
    if (performance.now() - this.#upSince > GOOD_CONNECTION) this.#failures = 0
    this.#connection = undefined
    this.#upSince = undefined
    this.#retryLater(error)
    this.#handlers?.interrupted(error)
  }

  #retryLater(error: unknown): void {
    if (this.#closed) return
    const problem = messageOf(error)
    // The same problem is logged once.
    if (problem !== this.#lastProblem) {
      this.#options.log.warn({ err: error }, `the bus (PGWS_BUS) is not connected, trying again: ${problem}`)
    }
    this.#lastProblem = problem
    const reconnect = () => void this.#afterwards(this.#connect())
    this.#timer = setTimeout(reconnect, reconnectBackoff(++this.#failures))
  }

  /** Handles the outcome of an attempt to connect that nobody awaits. */
  async #afterwards(attempt: Promise<void>): Promise<void> {
    try {
      await attempt
    } catch (error) {
      this.#retryLater(error)
      return
    }
    this.#options.log.info({}, 'the bus (PGWS_BUS) is connected')
    this.#handlers?.restored()
  }
}

/** Nodes may pass it on to clients, who must not learn where the servers are. The log has the rest. */
function interrupted(cause?: unknown): Error {
  const error = new errors.NodesUnavailable('the bus between the nodes is interrupted')
  return cause === undefined ? error : Object.assign(error, { cause })
}
