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
import type { NamespaceAdapter } from './namespace-adapter.js'
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

/** An offset from which no session can be restored, because positions are not known yet. */
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
  let link: SharedLink | undefined
  // Socket.IO calls this function with `new`.
  return function adapterOf(nsp) {
    // The public type is `unknown`, because this package does not depend on socket.io.
    const namespace = nsp as Namespace
    const { connectionStateRecovery, pingInterval = 25_000, pingTimeout = 20_000 } = namespace.server.opts
    if (link === undefined || link.size === 0) {
      link = new SharedLink(
        pool,
        resolved,
        connectionStateRecovery && {
          maxDisconnectionDuration: connectionStateRecovery.maxDisconnectionDuration ?? 120_000,
          noticeTime: pingInterval + pingTimeout
        }
      )
    }
    return new PostgresAdapter(namespace, resolved, link)
  }
}

/**
 * The adapter of one namespace.
 *
 * With connection state recovery, clients of this node get its own packets at once, and those of other nodes in the order
 * of their commits. So two numbers say what a client has got: a position in that order, and the number of the last of this
 * node's own packets, which may be ahead of the position.
 */
export class PostgresAdapter extends ClusterAdapterWithHeartbeat {
  readonly #options: Options
  readonly #link: SharedLink
  readonly #namespaceAdapter: NamespaceAdapter
  readonly #inbox: NamespaceInbox
  #joined: Promise<void> | undefined
  #closing = false
  #closed = false
  #position: number | undefined
  /** The numbers of this node's last packet that its clients have got, and of its last packet that is known to be committed. */
  #delivered = 0
  #confirmed = 0
  readonly #returning: ReturningClients

  constructor(nsp: Namespace, options: Options, link: SharedLink) {
    super(nsp, options)
    const internals = internalsOf(this)
    if (options.uid !== undefined) internals.uid = options.uid
    this.#options = options
    this.#link = link
    this.#inbox = new NamespaceInbox({
      nsp: nsp.name,
      uid: this.uid,
      deliver: (received) => this.#receive(received),
      read: (ids) => link.read(ids),
      onError: options.errorHandler
    })
    this.#returning = new ReturningClients({
      nsp: nsp.name,
      uid: this.uid,
      link: link,
      state: () => this.#state,
      position: () => this.#position,
      onError: options.errorHandler
    })
    const adapter = this
    this.#namespaceAdapter = {
      nsp: nsp.name,
      channel: link.channelOf(nsp.name),
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

  /** Resolves when the namespace is listened to. Another call waits for the same promise. */
  override init(): Promise<void> {
    this.#joined ??= this.#link.add(this.#namespaceAdapter).catch(this.#options.errorHandler)
    return this.#joined
  }

  /** Resolves when the last packets and sessions have been written, and nothing keeps the process alive. */
  override async close(): Promise<void> {
    if (this.#closing) return
    this.#closing = true
    // If a heartbeat arrived after the farewell, the others would count this node again, and wait for its responses.
    await this.#link.heartbeatsSent()
    super.close()
    this.#closed = true
    this.#returning.clear()
    await this.#link.remove(this.#namespaceAdapter)
  }

  override publish(message: Parameters<ClusterAdapterWithHeartbeat['publish']>[0]): void {
    // The base class would start the timer of the heartbeats again.
    if (!this.#closed) super.publish(message)
  }

  override doPublish(message: ClusterMessage): Promise<string> {
    this.#send(message)
    // The base class must not wait for the database. The offset that it expects is added elsewhere.
    return Promise.resolve('')
  }

  override doPublishResponse(_requester: string, response: ClusterResponse): Promise<void> {
    this.#send(response)
    return Promise.resolve()
  }

  #send(message: Message): number | undefined {
    if (this.#closed) return undefined
    const { channel } = this.#namespaceAdapter
    if (message.type === types.INITIAL_HEARTBEAT || message.type === types.HEARTBEAT) {
      if (!this.#closing) this.#link.sendHeartbeat(channel, message)
      return undefined
    }
    // Broadcasts and SOCKETS_… messages have these options.
    const flags = (message.data as { opts?: { flags?: { volatile?: boolean } } } | undefined)?.opts?.flags
    return this.#link.publish(channel, message, flags?.volatile === true)
  }

  /** Sends a packet to clients: to those of this node at once, to those of other nodes through the database. */
  override broadcast(packet: BroadcastData['packet'], opts: BroadcastOptions): Promise<void> {
    const { rooms, except, flags } = opts
    let seq: number | undefined
    if (!flags?.local) {
      // The packet without the offset that is added below.
      const data = { packet, opts: { rooms: [...rooms], except: [...(except ?? [])], flags } }
      seq = this.#send({ uid: this.uid, nsp: this.nsp.name, type: types.BROADCAST, data })
    }
    let delivered = packet
    if (this.#link.recovery !== undefined && isRecoverable(packet, flags)) {
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
    // The base class always waits for 5 s; the option sets another timeout.
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
    this.#link.heard(this.nsp.name, uid)
    if (message === undefined || this.#closed) return
    let offset: string | undefined
    if (isBroadcast(message)) checkEvent(message.data.packet)
    if (this.#link.recovery !== undefined && isBroadcast(message)) {
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
    // The base class ignores a message whose type it does not know.
    this.onMessage(message as ClusterMessage, offset)
  }

  /** What the clients of this node have got so far. */
  get #state(): Offset {
    const ahead = this.#delivered > this.#confirmed
    return {
      epoch: this.#link.recovery!.epoch,
      position: this.#position!,
      own: ahead ? { uid: this.uid, seq: this.#delivered } : undefined
    }
  }

  #offset(): string {
    const known = this.#link.recoverable && this.#position !== undefined
    return known ? writeOffset(this.#state) : NO_OFFSET
  }

  override persistSession(session: Session): void {
    if (!this.#link.recoverable) return
    this.#link.save({ ...session, nsp: this.nsp.name, disconnectedAt: Date.now() })
  }

  /**
   * Restores the session of a client. The packets that it missed follow when its socket exists (see addAll).
   * @param text the offset of the last packet that the client got
   * @returns null if packets may be missing
   */
  override async restoreSession(pid: string, text: string): Promise<Restored> {
    const session = await this.#returning.restore(pid, text)
    // The type does not allow it, but Socket.IO's own adapters return null if there is no session.
    if (session === undefined) return null as never
    const { sid, rooms, data } = session
    // Socket.IO would send missed packets too early (see addAll).
    return { sid, pid, rooms, data, missedPackets: [] }
  }

  /**
   * Called when the socket of a returning client exists. Sends the packets that it missed after the CONNECT packet, which is
   * the next to be sent. If they were sent before it and the connection broke in between, the client would get them twice.
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
    // If the client leaves before it has got its missed packets, it may come back with the same session.
    const session = this.#returning.remove(id)
    if (session !== undefined) this.#link.save(session)
    super.delAll(id)
  }
}
