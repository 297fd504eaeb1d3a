import type { Room, SocketId } from 'socket.io-adapter'
import { asError } from '../../errors.js'
import { type Offset, readOffset, writeOffset } from './offset.js'
import type { SavedSession, StateRecovery } from './state-recovery.js'

/** How long the restoration of a session waits for packets that are under way, in milliseconds. */
const CATCH_UP_TIMEOUT = 2000

/** After this long a client that has been let in, and has not come, is forgotten. */
const JOIN_TIMEOUT = 60_000

/** A packet that came while a client was coming back. */
interface Logged {
  data: unknown[]
  opts: { rooms: Set<Room>; except: Set<Room> }
  state: Offset
  /** Its position, for another node's; its number, for our own. */
  position?: number | undefined
  seq?: number | undefined
}

/** A client that is coming back: from the look at the tables until its socket is there, packets are put aside for it. */
interface Joining {
  log: Logged[]
  session?: SavedSession
  /** What it missed, and the position up to which that is all. */
  missed: unknown[][]
  last: number
  timer?: NodeJS.Timeout
}

/** What the namespace shares with the others (SharedLink). */
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
  /** What clients of this node have got so far. */
  state: () => Offset
  /** The place in the order of packets up to which all were delivered. */
  position: () => number | undefined
  onError: (error: Error) => void
}

/** The clients of a namespace that come back after their connection was lost, and what they get then. */
export class ReturningClients {
  readonly #options: ReturningClientsOptions
  readonly #joining = new Set<Joining>()
  readonly #letIn = new Map<SocketId, Joining>()

  constructor(options: ReturningClientsOptions) {
    this.#options = options
  }

  /** A packet was delivered to the clients that are there. */
  log(packet: Omit<Logged, 'state'>): void {
    if (this.#joining.size === 0) return
    const { data, ...rest } = packet
    const logged = { ...rest, data: [...data], state: this.#options.state() }
    for (const joining of this.#joining) joining.log.push(logged)
  }

  /**
   * What a client was. What it has missed follows once its socket is there (see missedBy).
   * @param pid the session's secret
   * @param text the offset of the last packet that it got
   * @returns undefined where something may be missing
   */
  async letIn(pid: string, text: string): Promise<SavedSession | undefined> {
    const joining: Joining = { log: [], missed: [], last: 0 }
    this.#joining.add(joining)
    const restored = await this.#restore(joining, pid, text).catch((error) => {
      this.#options.onError(asError(error))
      return false
    })
    if (!restored) {
      this.#joining.delete(joining)
      return undefined
    }
    const session = joining.session!
    const { sid } = session
    const earlier = this.#letIn.get(sid)
    if (earlier) this.#forget(sid, earlier)
    this.#letIn.set(sid, joining)
    joining.timer = setTimeout(() => this.#forget(sid, joining), JOIN_TIMEOUT).unref()
    return session
  }

  async #restore(joining: Joining, pid: string, text: string): Promise<boolean> {
    const { nsp, uid, link, position } = this.#options
    const { recovery } = link
    const offset = readOffset(text)
    if (!recovery || !link.recoverable || offset?.epoch !== recovery.epoch || !link.listening) return false
    const pause = () => new Promise((resolve) => setTimeout(resolve, 5))
    // What our clients got before the log begins must be in the table.
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
    // From here on packets are delivered as they come, so that all before must have come.
    while ((position() ?? 0) < last && performance.now() < deadline) await pause()
    if (missed === undefined || (position() ?? 0) < last || !link.listening) return false
    joining.session = session
    joining.last = last
    joining.log = joining.log.filter((one) => (one.position ?? 0) > last || (one.seq ?? 0) > seq)
    const { epoch, own } = offset
    joining.missed = missed.map(({ position, data }) => [...data, writeOffset({ epoch, position, own })])
    return true
  }

  /** Whether a client has been let in, and has not got what it missed. */
  has(sid: SocketId): boolean {
    return this.#letIn.has(sid)
  }

  /**
   * The socket of a client is there: what it missed, and what came while it was coming back.
   * @param joined the rooms that it is in
   */
  missedBy(sid: SocketId, joined: ReadonlySet<Room>): unknown[][] {
    const joining = this.#letIn.get(sid)
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
   * A client has gone.
   * @returns its session where it has got nothing of what it missed: it may come again
   */
  left(sid: SocketId): SavedSession | undefined {
    const joining = this.#letIn.get(sid)
    if (joining === undefined) return undefined
    this.#forget(sid, joining)
    return joining.session
  }

  clear(): void {
    for (const [sid, joining] of this.#letIn) this.#forget(sid, joining)
  }

  #forget(sid: SocketId, joining: Joining): void {
    clearTimeout(joining.timer)
    this.#joining.delete(joining)
    this.#letIn.delete(sid)
  }
}
