import type pg from 'pg'
import { type EmitterOptions, PacketPublisher } from './packet-publisher.js'
import { channelOf, EVENT, type Message, RESERVED_EVENTS, types } from './packets/packet.js'

export type { EmitterOptions }

// biome-ignore lint/suspicious/noExplicitAny: events take any values unless their types are given
type EventsMap = Record<string, any>
type DefaultEvents = Record<string, (...args: unknown[]) => void>
type Parameters_<Events extends EventsMap, Name extends keyof Events> = Parameters<Events[Name]>

/** Sends events to the clients of Socket.IO servers that share a database, from a process without a server. */
export class Emitter<
  EmitEvents extends EventsMap = DefaultEvents,
  ServerSideEvents extends EventsMap = DefaultEvents
> {
  /** The namespace. */
  readonly nsp: string
  /** Its database channel. */
  readonly channel: string
  readonly #publisher: PacketPublisher

  /**
   * @param pool a pool of `pg`, or a client; with a client, events are part of the client's transaction
   * @param nsp the namespace. Default: `/`
   * @param options the options of the servers' adapter
   * @throws InvalidOption, which says what is expected
   */
  constructor(pool: pg.Pool | pg.ClientBase, nsp = '/', options: EmitterOptions = {}) {
    this.#publisher = pool instanceof PacketPublisher ? pool : new PacketPublisher(pool, options)
    this.nsp = nsp
    this.channel = channelOf(this.#publisher.options.channelPrefix, nsp)
  }

  /** An emitter for another namespace, with the same options. */
  of(nsp: string): Emitter<EmitEvents, ServerSideEvents> {
    const name = nsp.startsWith('/') ? nsp : `/${nsp}`
    // The constructor also takes a publisher, which its public type does not mention.
    return new Emitter(this.#publisher as unknown as pg.Pool, name)
  }

  /**
   * Waits until the database has accepted everything that was emitted so far, in any namespace.
   * @throws SocketIoNotPublished, the first failure after the last call
   */
  flushed(): Promise<void> {
    return this.#publisher.flushed()
  }

  /** Sends an event to all clients. Failures go to `errorHandler`, and to `flushed()`. */
  emit<Name extends keyof EmitEvents & string>(event: Name, ...args: Parameters_<EmitEvents, Name>): true {
    return this.#operator.emit(event, ...args)
  }

  /** Selects clients in at least one of the rooms. */
  to(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#operator.to(rooms)
  }

  /** The same as `to`. */
  in(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#operator.to(rooms)
  }

  /** Excludes clients in any of the rooms. */
  except(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#operator.except(rooms)
  }

  /** Marks the next event as volatile: it may be lost if a client is not ready. */
  get volatile(): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#operator.volatile
  }

  /** Sets whether the next event is compressed. */
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

  /** Disconnects the clients. @param close whether to close the connection, and so leave all namespaces */
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
    return new BroadcastOperator(this.nsp, (message) => this.#publisher.publish(this.channel, message))
  }
}

type Publish = (message: Omit<Message, 'uid'>) => Promise<void>

/** Selects the clients for the next event. Each method returns a new object. */
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

  /** Selects clients in at least one of the rooms, in addition to rooms that are already selected. */
  to(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#with({ rooms: new Set([...this.#rooms, ...[rooms].flat()]) })
  }

  /** The same as `to`. */
  in(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.to(rooms)
  }

  /** Excludes clients in any of the rooms. */
  except(rooms: string | string[]): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#with({ except: new Set([...this.#except, ...[rooms].flat()]) })
  }

  /** Sets whether the event is compressed. */
  compress(compress: boolean): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#with({ flags: { ...this.#flags, compress } })
  }

  /** Marks the event as volatile: it may be lost if a client is not ready. */
  get volatile(): BroadcastOperator<EmitEvents, ServerSideEvents> {
    return this.#with({ flags: { ...this.#flags, volatile: true } })
  }

  /**
   * Sends an event to the selected clients. Failures go to `errorHandler`, and to `flushed()`.
   * @throws Error for a reserved event name, and for an acknowledgement
   */
  emit<Name extends keyof EmitEvents & string>(event: Name, ...args: Parameters_<EmitEvents, Name>): true {
    if (RESERVED_EVENTS.has(event)) throw new Error(`"${event}" is a reserved event name`)
    refuseAcknowledgement(args)
    const packet = { type: EVENT, data: [event, ...args], nsp: this.#nsp }
    this.#send(types.BROADCAST, { packet, opts: this.#opts }).catch(() => {})
    return true
  }

  /**
   * Makes the selected clients join rooms. Resolves when the database has accepted the request.
   * @throws SocketIoNotPublished
   */
  socketsJoin(rooms: string | string[]): Promise<void> {
    return this.#send(types.SOCKETS_JOIN, { opts: this.#opts, rooms: [rooms].flat() })
  }

  /** Makes the selected clients leave rooms. @throws SocketIoNotPublished */
  socketsLeave(rooms: string | string[]): Promise<void> {
    return this.#send(types.SOCKETS_LEAVE, { opts: this.#opts, rooms: [rooms].flat() })
  }

  /**
   * Disconnects the selected clients.
   * @param close whether to close the connection, and so leave all namespaces
   * @throws SocketIoNotPublished
   */
  disconnectSockets(close = false): Promise<void> {
    return this.#send(types.DISCONNECT_SOCKETS, { opts: this.#opts, close })
  }

  /**
   * Sends an event to the servers. Resolves when the database has accepted it.
   * @throws Error for an acknowledgement; SocketIoNotPublished
   */
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
