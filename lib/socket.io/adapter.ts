import type pg from 'pg'
import {
  Adapter,
  type BroadcastOptions,
  ClusterAdapterWithHeartbeat,
  type ClusterMessage,
  type ClusterResponse,
  type Room,
  type SocketId
} from 'socket.io-adapter'
import { internalsOf, type Namespace } from './internals.js'
import type { Member } from './member.js'
import { type AdapterOptions, resolveAdapterOptions } from './options.js'
import { NamespaceInbox, type Received } from './packets/namespace-inbox.js'
import {
  type BroadcastData,
  checkEvent,
  EVENT,
  isBroadcast,
  isRecoverable,
  type Message,
  types
} from './packets/packet.js'
import { type Offset, writeOffset } from './recovery/offset.js'
import { ReturningClients } from './recovery/returning-clients.js'
import type { Session } from './recovery/state-recovery.js'
import { SharedLink } from './shared-link.js'

/** An offset that no session can be restored from: positions are not known yet. */
const NO_OFFSET = '-'

type Options = ReturnType<typeof resolveAdapterOptions>

type Restored = Awaited<ReturnType<Adapter['restoreSession']>>

/**
 * Creates an adapter for Socket.IO servers that share a PostgreSQL database. It is a drop-in replacement for
 * @socket.io/postgres-adapter 0.5, and may run beside it in one cluster.
 * @param pool a pool of `pg`; the caller closes it, after the server
 * @param options see AdapterOptions
 * @returns the value of the server's option `adapter`
 * @throws InvalidOption, which says what is expected
 */
export function createAdapter(
  pool: pg.Pool,
  options: AdapterOptions = {}
): (nsp: unknown) => PostgresAdapter {
  const resolved = resolveAdapterOptions(options)
  let transport: SharedLink | undefined
  // Socket.IO calls it with `new`.
  return function adapterOf(nsp) {
    const {
      connectionStateRecovery,
      pingInterval = 25_000,
      pingTimeout = 20_000
    } = (nsp as Namespace).server.opts
    if (transport === undefined || transport.size === 0) {
      transport = new SharedLink(
        pool,
        resolved,
        connectionStateRecovery && {
          maxDisconnectionDuration: connectionStateRecovery.maxDisconnectionDuration ?? 120_000,
          noticeTime: pingInterval + pingTimeout
        }
      )
    }
    return new PostgresAdapter(nsp as Namespace, resolved, transport)
  }
}

/**
 * One namespace's adapter.
 *
 * With connection state recovery, clients of this node get its own packets at once, and those of other nodes in the
 * order of their commits. What a client has got is so told by a position in that order and, beyond it, a number of our own.
 */
export class PostgresAdapter extends ClusterAdapterWithHeartbeat {
  readonly #options: Options
  readonly #transport: SharedLink
  readonly #member: Member
  readonly #inbox: NamespaceInbox
  #joined: Promise<void> | undefined
  #closing = false
  #closed = false
  #position: number | undefined
  /** The last of our own packets that our clients have, and that came back as committed. */
  #delivered = 0
  #confirmed = 0
  readonly #returning: ReturningClients

  constructor(nsp: Namespace, options: Options, transport: SharedLink) {
    super(nsp, options)
    const internals = internalsOf(this)
    if (options.uid !== undefined) internals.uid = options.uid
    this.#options = options
    this.#transport = transport
    this.#inbox = new NamespaceInbox({
      nsp: nsp.name,
      uid: this.uid,
      deliver: (received) => this.#receive(received),
      read: (ids) => transport.read(ids),
      onError: options.errorHandler
    })
    this.#returning = new ReturningClients({
      nsp: nsp.name,
      uid: this.uid,
      link: transport,
      state: () => this.#state,
      position: () => this.#position,
      onError: options.errorHandler
    })
    const adapter = this
    this.#member = {
      nsp: nsp.name,
      uid: this.uid,
      inbox: this.#inbox,
      peers: () => internals.nodesMap.keys(),
      hello: () => this.publish({ type: types.INITIAL_HEARTBEAT }),
      gap: (milliseconds) => this.emit('gap', milliseconds),
      get position() {
        return adapter.#position
      },
      begin: (position) => {
        this.#position = Math.max(this.#position ?? 0, position)
      }
    }
  }

  /** Resolves when the namespace is listened to. Called again, it waits for the same: it has joined already. */
  override init(): Promise<void> {
    this.#joined ??= this.#transport.add(this.#member).catch(this.#options.errorHandler)
    return this.#joined
  }

  /** Resolves when the other nodes were told, sessions are saved, and nothing keeps the process. */
  override async close(): Promise<void> {
    if (this.#closing) return
    this.#closing = true
    // A heartbeat that came after the farewell would make the others wait for us.
    await this.#transport.beaten()
    super.close()
    this.#closed = true
    this.#returning.clear()
    await this.#transport.remove(this.#member)
  }

  override publish(message: Parameters<ClusterAdapterWithHeartbeat['publish']>[0]): void {
    // It would start the timer of the heartbeats again.
    if (!this.#closed) super.publish(message)
  }

  override doPublish(message: ClusterMessage): Promise<string> {
    this.#send(message)
    // Nothing here waits for the database.
    return Promise.resolve('')
  }

  override doPublishResponse(_requester: string, response: ClusterResponse): Promise<void> {
    this.#send(response)
    return Promise.resolve()
  }

  #send(message: Message): number | undefined {
    if (this.#closed) return undefined
    if (message.type === types.INITIAL_HEARTBEAT || message.type === types.HEARTBEAT) {
      if (!this.#closing) this.#transport.beat(message)
      return undefined
    }
    const flags = (message.data as { opts?: { flags?: { volatile?: boolean } } } | undefined)?.opts?.flags
    return this.#transport.publish(message, flags?.volatile === true)
  }

  /** Clients of this node get it at once; those of others when the database has taken it. */
  override broadcast(packet: BroadcastData['packet'], opts: BroadcastOptions): Promise<void> {
    const { rooms, except, flags } = opts
    let seq: number | undefined
    if (!flags?.local) {
      // The packet of socket.io-parser, before anything is added to it.
      const data = { packet, opts: { rooms: [...rooms], except: [...(except ?? [])], flags } }
      seq = this.#send({ uid: this.uid, nsp: this.nsp.name, type: types.BROADCAST, data })
    }
    let delivered = packet
    if (this.#transport.recovery !== undefined && isRecoverable(packet, flags)) {
      if (seq !== undefined) {
        this.#delivered = seq
        this.#returning.log({ data: packet.data, opts: { rooms, except: except ?? new Set() }, seq })
      }
      delivered = { ...packet, data: [...packet.data, this.#offset()] }
    }
    Adapter.prototype.broadcast.call(this, delivered, opts)
    return Promise.resolve()
  }

  override fetchSockets(opts: BroadcastOptions): ReturnType<ClusterAdapterWithHeartbeat['fetchSockets']> {
    const timeout = opts.flags?.timeout ?? this.#options.requestsTimeout
    return super.fetchSockets({ ...opts, flags: { ...opts.flags, timeout } })
  }

  override serverSideEmit(packet: unknown[]): Promise<unknown> {
    const { customRequests } = internalsOf(this)
    const before = new Set(customRequests.keys())
    const emitted = super.serverSideEmit(packet)
    // The base class waits for 5 s, whatever the option says.
    for (const [id, request] of customRequests) {
      if (before.has(id)) continue
      clearTimeout(request.timeout)
      request.timeout = setTimeout(() => {
        if (!customRequests.delete(id)) return
        const error = new Error(`timeout reached: missing ${request.missingUids.size} responses`)
        request.resolve(error, request.responses)
      }, this.#options.requestsTimeout)
    }
    return emitted
  }

  #receive({ uid, message, position, n }: Received): void {
    if (position !== undefined) this.#position = Math.max(this.#position ?? 0, position)
    if (uid === this.uid) {
      if (n !== undefined) this.#confirmed = n
      return
    }
    this.#transport.heard(this.nsp.name, uid)
    if (message === undefined || this.#closed) return
    let offset: string | undefined
    if (isBroadcast(message)) checkEvent(message.data.packet)
    if (this.#transport.recovery !== undefined && isBroadcast(message)) {
      offset = this.#offset()
      const { packet, opts } = message.data
      if (position !== undefined && isRecoverable(packet, opts.flags)) {
        const { rooms, except } = opts
        this.#returning.log({
          data: [...packet.data],
          opts: { rooms: new Set(rooms), except: new Set(except) },
          position
        })
      }
    }
    this.onMessage(message as ClusterMessage, offset)
  }

  /** What clients of this node have got so far. */
  get #state(): Offset {
    const ahead = this.#delivered > this.#confirmed
    return {
      epoch: this.#transport.recovery!.epoch,
      position: this.#position!,
      own: ahead ? { uid: this.uid, seq: this.#delivered } : undefined
    }
  }

  #offset(): string {
    const known = this.#transport.recoverable && this.#position !== undefined
    return known ? writeOffset(this.#state) : NO_OFFSET
  }

  override persistSession(session: Session): void {
    if (!this.#transport.recoverable) return
    this.#transport.save({ ...session, nsp: this.nsp.name, disconnectedAt: Date.now() })
  }

  /**
   * What a client was. What it has missed follows once its socket is there (see addAll).
   * @param text the offset of the last packet that it got
   * @returns null where something may be missing
   */
  override async restoreSession(pid: string, text: string): Promise<Restored> {
    const session = await this.#returning.letIn(pid, text)
    // Its types do not say so, but null is its answer where there is no session.
    if (session === undefined) return null as never
    const { sid, rooms, data } = session
    // Socket.IO would send what was missed at once.
    return { sid, pid, rooms, data, missedPackets: [] }
  }

  /**
   * The socket of a client that has come back is there: it gets what it missed. Behind the CONNECT packet, which is the next
   * to be sent: what comes before it stays with a client that is cut off in between, which then would have it twice.
   */
  override addAll(id: SocketId, rooms: Set<Room>): void {
    super.addAll(id, rooms)
    if (!this.#returning.has(id)) return
    const { sockets }: Namespace = this.nsp
    const socket = sockets.get(id)
    if (!socket) return
    const { packet } = socket
    socket.packet = (...args) => {
      socket.packet = packet
      socket.packet(...args)
      const missed = this.#returning.missedBy(id, this.sids.get(id) ?? new Set())
      for (const data of missed) socket.packet({ type: EVENT, data })
    }
  }

  override delAll(id: SocketId): void {
    // It has gone before its socket was there, and has got nothing: it may come again.
    const session = this.#returning.left(id)
    if (session !== undefined) this.#transport.save(session)
    super.delAll(id)
  }
}
