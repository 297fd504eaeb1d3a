import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import { errors, messageOf } from '../errors.js'
import { BatchQueue, MAY_WAIT } from '../publishing/batch-queue.js'
import { publishStatement } from './database/publish-statement.js'
import { classify, guardPool, queryPool } from './database/user-pool.js'
import { type AdapterOptions, resolveAdapterOptions } from './options.js'
import {
  channelOf,
  EVENT,
  type Message,
  type Packet,
  packetOf,
  RESERVED_EVENTS,
  types
} from './packets/packet.js'

/** How long packets wait for a database that is away, in milliseconds. */
const PUBLISH_TIMEOUT = 10_000

/** How long it is believed whether the servers keep packets for clients that come back, in milliseconds. */
const DETECTION_TIME = 10_000

/** Nodes do not count who has this name. */
const EMITTER_UID = 'emitter'

/** This process, and its packets, among all that are kept. */
const origin = `${EMITTER_UID}-${randomBytes(9).toString('base64url')}`
let lastNumber = 0

export type EmitterOptions = Pick<
  AdapterOptions,
  'channelPrefix' | 'tableName' | 'payloadThreshold' | 'errorHandler'
>

// biome-ignore lint/suspicious/noExplicitAny: events take any values unless their types are given
type EventsMap = Record<string, any>
type DefaultEvents = Record<string, (...args: unknown[]) => void>
type Parameters_<Events extends EventsMap, Name extends keyof Events> = Parameters<Events[Name]>

/** Publishes in order: through a pool, many at once; or on the caller's client, within its transaction. */
class Sender {
  readonly options: ReturnType<typeof resolveAdapterOptions>
  readonly #target: pg.Pool | pg.ClientBase
  readonly #queue: BatchQueue | undefined
  #recovery = false
  #detected: number | undefined
  #waiting = 0
  #chain: Promise<unknown> = Promise.resolve()
  readonly #unsettled = new Set<Promise<void>>()
  #failure: Error | undefined

  constructor(target: pg.Pool | pg.ClientBase, options: EmitterOptions) {
    this.options = resolveAdapterOptions(options)
    this.#target = target
    if (!('totalCount' in target)) return
    guardPool(target)
    this.#queue = new BatchQueue({
      send: async (groups) => {
        await this.#detect((text, values) => queryPool(target, text, values))
        await queryPool(target, ...this.#statement(groups.flat() as readonly Packet[]))
        return groups.map(() => undefined)
      },
      limit: () => Number.MAX_SAFE_INTEGER,
      repeatable: (packet) => this.#recovery && (packet as Packet).kept !== undefined,
      ready: () => true,
      timeout: PUBLISH_TIMEOUT,
      onBatch: () => {}
    })
  }

  publish(message: Omit<Message, 'uid'>): Promise<void> {
    const published = this.#publish(message).catch((error) => {
      throw new errors.SocketIoNotPublished(messageOf(error))
    })
    const settled = published.catch((error) => {
      this.#failure ??= error
      this.options.errorHandler(error)
    })
    this.#unsettled.add(settled)
    settled.then(() => this.#unsettled.delete(settled))
    return published
  }

  /** @throws the first failure since the last call */
  async flushed(): Promise<void> {
    await Promise.all(this.#unsettled)
    const failure = this.#failure
    this.#failure = undefined
    if (failure !== undefined) throw failure
  }

  async #publish(message: Omit<Message, 'uid'>): Promise<void> {
    const { channelPrefix, payloadThreshold } = this.options
    const whole = { uid: EMITTER_UID, ...message }
    const packet = packetOf(channelPrefix, whole, ++lastNumber, payloadThreshold, origin)
    if (this.#queue !== undefined) return this.#queue.publish([packet], MAY_WAIT)
    const client = this.#target as pg.ClientBase
    const send = () => client.query(...this.#statement([packet]))
    try {
      // Where nothing is waited for, it is sent before this function returns: so it is part of a transaction that the
      // caller commits next.
      if (this.#detected !== undefined && this.#waiting === 0) {
        await send()
        return
      }
      this.#waiting++
      const sent = this.#chain
        .then(() => this.#detect((text, values) => client.query(text, values)))
        .then(send)
        .finally(() => this.#waiting--)
      this.#chain = sent.catch(() => {})
      await sent
    } catch (error) {
      throw classify(error)
    }
  }

  #statement(packets: readonly Packet[]): [text: string, values: unknown[]] {
    const { tables } = this.options
    return publishStatement(tables, this.#recovery ? packets : packets.map(({ kept, ...packet }) => packet))
  }

  /** Whether the servers keep packets for clients that come back: they have made the tables. */
  async #detect(query: (text: string, values: unknown[]) => Promise<pg.QueryResult>): Promise<void> {
    if (this.#detected !== undefined && performance.now() - this.#detected < DETECTION_TIME) return
    const { rows } = await query('select pg_catalog.to_regclass($1) is not null as there', [
      this.options.tables.recovery
    ])
    this.#recovery = rows[0].there
    this.#detected = performance.now()
  }
}

/** Sends to the clients of Socket.IO servers that share a database, from a process that runs none. */
export class Emitter<
  EmitEvents extends EventsMap = DefaultEvents,
  ServerSideEvents extends EventsMap = DefaultEvents
> {
  /** The namespace. */
  readonly nsp: string
  /** Its database channel. */
  readonly channel: string
  readonly #sender: Sender

  /**
   * @param pool a pool of `pg`, or a client: then what is emitted is part of its transaction
   * @param nsp the namespace
   * @param options those of the servers' adapter
   * @throws InvalidOption
   */
  constructor(pool: pg.Pool | pg.ClientBase, nsp = '/', options: EmitterOptions = {}) {
    this.#sender = pool instanceof Sender ? pool : new Sender(pool, options)
    this.nsp = nsp
    this.channel = channelOf(this.#sender.options.channelPrefix, nsp)
  }

  /** An emitter for another namespace, with the same options. */
  of(nsp: string): Emitter<EmitEvents, ServerSideEvents> {
    const name = nsp.startsWith('/') ? nsp : `/${nsp}`
    return new Emitter(this.#sender as unknown as pg.Pool, name)
  }

  /**
   * Resolves when all that was emitted so far, in any namespace, is accepted by the database.
   * @throws SocketIoNotPublished: the first failure since the last call
   */
  flushed(): Promise<void> {
    return this.#sender.flushed()
  }

  /** Sends an event to all clients. Failures go to the error handler, and to `flushed()`. */
  emit<Name extends keyof EmitEvents & string>(event: Name, ...args: Parameters_<EmitEvents, Name>): true {
    return this.#operator.emit(event, ...args)
  }

  /** Only clients in one of the rooms. */
  to(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#operator.to(rooms)
  }

  /** As `to`. */
  in(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#operator.to(rooms)
  }

  /** No clients in one of the rooms. */
  except(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#operator.except(rooms)
  }

  /** The next event may be lost where a client is not ready. */
  get volatile(): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#operator.volatile
  }

  /** Whether the next event is compressed. */
  compress(compress: boolean): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#operator.compress(compress)
  }

  /** Makes the clients join rooms. Resolves when the database has accepted it. */
  socketsJoin(rooms: string | string[]): Promise<void> {
    return this.#operator.socketsJoin(rooms)
  }

  /** Makes the clients leave rooms. */
  socketsLeave(rooms: string | string[]): Promise<void> {
    return this.#operator.socketsLeave(rooms)
  }

  /** Disconnects the clients; `close`: from all namespaces. */
  disconnectSockets(close = false): Promise<void> {
    return this.#operator.disconnectSockets(close)
  }

  /** Sends an event to the servers. */
  serverSideEmit<Name extends keyof ServerSideEvents & string>(
    event: Name,
    ...args: Parameters_<ServerSideEvents, Name>
  ): Promise<void> {
    return this.#operator.serverSideEmit(event, ...args)
  }

  get #operator(): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return new BroadcastOperator(this.nsp, (message) => this.#sender.publish(message))
  }
}

type Publish = (message: Omit<Message, 'uid'>) => Promise<void>

/** Whom the next event is for. Each step gives a new one. */
export class BroadcastOperator<EmitEvents extends EventsMap, ServerSideEvents extends EventsMap> {
  readonly #nsp: string
  readonly #publish: Publish
  readonly #rooms: ReadonlySet<string>
  readonly #except: ReadonlySet<string>
  readonly #flags: object

  constructor(
    nsp: string,
    publish: Publish,
    rooms: ReadonlySet<string> = new Set(),
    except: ReadonlySet<string> = new Set(),
    flags: object = {}
  ) {
    this.#nsp = nsp
    this.#publish = publish
    this.#rooms = rooms
    this.#except = except
    this.#flags = flags
  }

  to(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#with({ rooms: new Set([...this.#rooms, ...[rooms].flat()]) })
  }

  in(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.to(rooms)
  }

  except(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#with({ except: new Set([...this.#except, ...[rooms].flat()]) })
  }

  compress(compress: boolean): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#with({ flags: { ...this.#flags, compress } })
  }

  get volatile(): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#with({ flags: { ...this.#flags, volatile: true } })
  }

  /** @throws Error for an event that Socket.IO keeps for itself, and for an acknowledgement */
  emit<Name extends keyof EmitEvents & string>(event: Name, ...args: Parameters_<EmitEvents, Name>): true {
    if (RESERVED_EVENTS.has(event)) throw new Error(`"${event}" is a reserved event name`)
    refuseAcknowledgement(args)
    const packet = { type: EVENT, data: [event, ...args], nsp: this.#nsp }
    this.#send(types.BROADCAST, { packet, opts: this.#opts }).catch(() => {})
    return true
  }

  socketsJoin(rooms: string | string[]): Promise<void> {
    return this.#send(types.SOCKETS_JOIN, { opts: this.#opts, rooms: [rooms].flat() })
  }

  socketsLeave(rooms: string | string[]): Promise<void> {
    return this.#send(types.SOCKETS_LEAVE, { opts: this.#opts, rooms: [rooms].flat() })
  }

  disconnectSockets(close = false): Promise<void> {
    return this.#send(types.DISCONNECT_SOCKETS, { opts: this.#opts, close })
  }

  serverSideEmit<Name extends keyof ServerSideEvents & string>(
    event: Name,
    ...args: Parameters_<ServerSideEvents, Name>
  ): Promise<void> {
    refuseAcknowledgement(args)
    return this.#send(types.SERVER_SIDE_EMIT, { packet: [event, ...args] })
  }

  get #opts() {
    return { rooms: [...this.#rooms], except: [...this.#except], flags: this.#flags }
  }

  #send(type: number, data: object): Promise<void> {
    return this.#publish({ nsp: this.#nsp, type, data })
  }

  #with({
    rooms = this.#rooms,
    except = this.#except,
    flags = this.#flags
  }: {
    rooms?: ReadonlySet<string>
    except?: ReadonlySet<string>
    flags?: object
  }): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return new BroadcastOperator(this.#nsp, this.#publish, rooms, except, flags)
  }
}

function refuseAcknowledgement(args: unknown[]): void {
  if (typeof args.at(-1) === 'function') throw new Error('Acknowledgements are not supported')
}
