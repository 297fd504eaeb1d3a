import type { Room, SocketId } from 'socket.io-adapter'
import { asError } from '../../errors.js'
import { type Offset, readOffset, writeOffset } from './offset.js'
import type { SavedSession, StateRecovery } from './state-recovery.js'

/** How long the restoration of a session waits for packets in flight, in milliseconds. */
const CATCH_UP_TIMEOUT = 2000

/** How long the restored session of a client is kept until its socket exists, in milliseconds. */
const JOIN_TIMEOUT = 60_000

/** A packet that was delivered while a client was coming back. */
interface Logged {
  data: unknown[]
  opts: { rooms: Set<Room>; except: Set<Room> }
  state: Offset
  /** The position of a packet of another node, or the number of a packet of this node. */
  position?: number | undefined
  seq?: number | undefined
}

/** A client that is coming back. Packets are logged for it from before the tables are read until its socket exists. */
interface Joining {
  log: Logged[]
  session?: SavedSession
  /** The packets that it missed, and the position up to which they are complete. */
  missed: unknown[][]
  last: number
  timer?: NodeJS.Timeout
}

/** The part of SharedLink that is needed here. */
export interface RecoveryLink {
  readonly recovery: StateRecovery | undefined
  readonly recoverable: boolean
  readonly listening: boolean
  settled(): Promise<void>
}

export interface ReturningClientsOptions {
  nsp: string
  /** This node. */
  uid: string
  link: RecoveryLink
  /** What the clients of this node have got so far. */
  state: () => Offset
  /** The position up to which all packets have been delivered. */
  position: () => number | undefined
  onError: (error: Error) => void
}

/** The clients of a namespace that come back after their connection was lost, and the packets that they missed. */
export class ReturningClients {
  readonly #options: ReturningClientsOptions
  readonly #joining = new Set<Joining>()
  readonly #restored = new Map<SocketId, Joining>()

  constructor(options: ReturningClientsOptions) {
    this.#options = options
  }

  /** Notes that a packet was delivered to the connected clients. */
  log(packet: Omit<Logged, 'state'>): void {
    if (this.#joining.size === 0) return
    const { data, ...rest } = packet
    const logged = { ...rest, data: [...data], state: this.#options.state() }
    for (const joining of this.#joining) joining.log.push(logged)
  }

  /**
   * Restores the session of a client. The packets that it missed follow when its socket exists (see missedBy).
   * @param pid the session's secret
   * @param text the offset of the last packet that the client got
   * @returns undefined if packets may be missing
   */
  async restore(pid: string, text: string): Promise<SavedSession | undefined> {
    const joining: Joining = { log: [], missed: [], last: 0 }
    this.#joining.add(joining)
    const ready = await this.#prepare(joining, pid, text).catch((error) => {
      this.#options.onError(asError(error))
      return false
    })
    if (!ready) {
      this.#joining.delete(joining)
      return undefined
    }
    const session = joining.session!
    const { sid } = session
    const earlier = this.#restored.get(sid)
    if (earlier) this.#forget(sid, earlier)
    this.#restored.set(sid, joining)
    joining.timer = setTimeout(() => this.#forget(sid, joining), JOIN_TIMEOUT).unref()
    return session
  }

  async #prepare(joining: Joining, pid: string, text: string): Promise<boolean> {
    const { nsp, uid, link, position } = this.#options
    const { recovery } = link
    const offset = readOffset(text)
    if (!recovery || !link.recoverable || offset?.epoch !== recovery.epoch || !link.listening) return false
    const pause = () => new Promise((resolve) => setTimeout(resolve, 5))
    // What this node's clients got before the log begins must be in the table.
    let settled = false
    link.settled().then(() => {
      settled = true
    })
    const session = await recovery.take(nsp, pid)
    if (session === undefined) return false
    const deadline = performance.now() + CATCH_UP_TIMEOUT
    while (!settled && performance.now() < deadline) await pause()
    const { last, top, seq } = await recovery.state(nsp, uid)
    if (!settled || offset.position > top) return false
    const missed = await recovery.missed(nsp, offset, last, session)
    // Later packets come from the log, so all packets up to this position must have been delivered.
    while ((position() ?? 0) < last && performance.now() < deadline) await pause()
    if (missed === undefined || (position() ?? 0) < last || !link.listening) return false
    joining.session = session
    joining.last = last
    joining.log = joining.log.filter((one) => (one.position ?? 0) > last || (one.seq ?? 0) > seq)
    const { epoch, own } = offset
    joining.missed = missed.map(({ position, data }) => [...data, writeOffset({ epoch, position, own })])
    return true
  }

  /** Whether a client's session was restored, and it has not got the packets that it missed. */
  has(sid: SocketId): boolean {
    return this.#restored.has(sid)
  }

  /**
   * To be called when the socket of a client exists.
   * @param joined the rooms that it is in
   * @returns the packets that it missed, and those that were delivered while it was coming back
   */
  missedBy(sid: SocketId, joined: ReadonlySet<Room>): unknown[][] {
    const joining = this.#restored.get(sid)
    if (joining === undefined) return []
    this.#forget(sid, joining)
    const { missed, log, last } = joining
    const isIn = (room: Room) => joined.has(room)
    const meanwhile = log.filter(({ opts }) => {
      const wanted = opts.rooms.size === 0 || [...opts.rooms].some(isIn)
      return wanted && ![...opts.except].some(isIn)
    })
    return [
      ...missed,
      ...meanwhile.map(({ data, state }) => [
        ...data,
        writeOffset({ ...state, position: Math.max(state.position, last) })
      ])
    ]
  }

  /**
   * To be called when a client leaves.
   * @returns its session if it has not got the packets that it missed, so that it may come back again
   */
  remove(sid: SocketId): SavedSession | undefined {
    const joining = this.#restored.get(sid)
    if (joining === undefined) return undefined
    this.#forget(sid, joining)
    return joining.session
  }

  clear(): void {
    for (const [sid, joining] of this.#restored) this.#forget(sid, joining)
  }

  #forget(sid: SocketId, joining: Joining): void {
    clearTimeout(joining.timer)
    this.#joining.delete(joining)
    this.#restored.delete(sid)
  }
}
