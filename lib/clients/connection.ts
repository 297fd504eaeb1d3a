import type { Access, Caller } from '../auth/index.js'
import { type Format, type Frame, joinFrames } from '../channels/index.js'
import { type FlowControl, HeldFrames, type Waiting } from '../flow/index.js'
import type { Sender } from '../messages/index.js'
import type { ClientConnection } from './client-connection.js'

/** Close codes of this project (RFC 6455, section 7.4.2: 3000 to 3999 are for frameworks). */
export const CLOSE = {
  GOING_AWAY: 1001,
  INVALID_DATA: 1007,
  TOO_BIG: 1009,
  NOT_PUBLISHED: 1011,
  SERVICE_RESTART: 1012,
  DISCONNECTED: 3000,
  JWT_EXPIRED: 3001,
  SLOW: 3008
} as const

/** What all connections of a server share. */
export interface ConnectionContext {
  /** Says how much may wait for each of them. */
  readonly flow: FlowControl
  /** Told of each client that has gone, with the code and the reason for it. */
  onGone: (connection: Connection, code: number, reason: string) => void
  /** What has been sent to all of them. */
  sent: { messages: number; bytes: number }
}

export interface ConnectionOptions {
  /** Its number on this server. */
  id: number
  /** Its client's IP address. */
  address: string
  /** What others are told of it; undefined where nothing is ever told. */
  sender: Sender | undefined
  /** As whom functions of the database's owner are called for it; undefined where none ever is. */
  caller: Caller | undefined
  /** One object for all connections. */
  context: ConnectionContext
}

/**
 * One client, whatever language it speaks. Servers hold many thousands of them, so it keeps no more of the token
 * than it needs.
 */
export abstract class Connection implements ClientConnection {
  abstract readonly format: Format
  readonly id: number
  readonly channels: readonly string[]
  readonly read: boolean
  readonly write: boolean
  /** When its token expires, in milliseconds since the epoch. */
  expiresAt: number | undefined
  /** The claim `sub` of its token. */
  readonly subject: string | undefined
  readonly address: string
  sender: Sender | undefined
  caller: Caller | undefined
  /** Milliseconds since the epoch. */
  readonly openedAt = Date.now()
  /** Which of the groups of pings it is in. */
  pingGroup = 0
  writtenBytes = 0
  waiting: Waiting | undefined
  /** While it is caught up, and for a moment after that. */
  #held: HeldFrames | undefined
  readonly #context: ConnectionContext

  constructor(access: Access, { id, address, sender, caller, context }: ConnectionOptions) {
    const { channels, read, write, expiresAt, subject } = access
    this.id = id
    this.address = address
    this.subject = subject
    this.channels = channels
    this.read = read
    this.write = write
    this.expiresAt = expiresAt
    this.sender = sender
    this.caller = caller
    this.#context = context
  }

  abstract get open(): boolean
  abstract get bufferedBytes(): number
  abstract get unsentBytes(): number
  abstract get copiedBytes(): number
  /** Writes frames; `joined` is the same in one piece. */
  protected abstract send(frames: readonly Frame[], joined: Buffer): void
  abstract drained(): Promise<void>
  abstract ping(): void
  abstract close(code: number, reason: string): void
  abstract terminate(): void

  /** To be called when the transport has ended: the connection leaves all that it has entered. */
  gone(code: number, reason: string): void {
    this.#context.onGone(this, code, reason)
  }

  goAway(code: number, reason: string): void {
    this.close(code, reason)
  }

  expire(): void {
    this.close(CLOSE.JWT_EXPIRED, 'JWT expired')
  }

  disconnect(code: number, reason: string): void {
    this.close(code, reason)
  }

  deliver(frames: readonly Frame[], joined: Buffer): void {
    if (!this.open) return
    if (this.#held === undefined) this.#deliver(frames, joined)
    else if (!this.#held.holding) this.#deliverFresh(this.#held, frames, joined)
    else if (!this.#held.add(frames)) this.#context.flow.close(this, 'limit')
  }

  #deliverFresh(held: HeldFrames, frames: readonly Frame[], joined: Buffer): void {
    const fresh = held.fresh(frames)
    if (held.done) this.#held = undefined
    if (fresh.length === frames.length) this.#deliver(frames, joined)
    else if (fresh.length > 0) this.#deliver(fresh, joinFrames(fresh))
  }

  #deliver(frames: readonly Frame[], joined: Buffer): void {
    // A message of any size is accepted while nothing waits.
    const { bufferedBytes } = this
    const { flow } = this.#context
    if (bufferedBytes > 0 && bufferedBytes + joined.length > flow.maxBufferedBytes) {
      if (!flow.mayWait(this, joined.length)) return
    }
    this.#sendAll(frames, joined)
  }

  closeSlow(): void {
    this.close(CLOSE.SLOW, 'slow')
  }

  /** From now on what comes is held, while older messages are replayed. */
  hold(): void {
    this.#held = new HeldFrames(this.#context.flow.maxBufferedBytes)
  }

  /** Sends older messages, past what is held. */
  replay(frames: readonly Frame[]): void {
    if (this.open && frames.length > 0) this.#sendAll(frames, joinFrames(frames))
  }

  /**
   * Sends what was held, but for durable messages that were replayed.
   * @param position up to which they were
   * @returns false where some were dropped, because too many came: then the replay has to go on
   */
  release(position: number): boolean {
    const held = this.#held!
    const frames = held.release(position)
    if (frames === undefined) return false
    if (held.done) this.#held = undefined
    this.replay(frames)
    return true
  }

  #sendAll(frames: readonly Frame[], joined: Buffer): void {
    const { sent, flow } = this.#context
    sent.messages += frames.length
    sent.bytes += joined.length
    this.writtenBytes += joined.length
    this.send(frames, joined)
    if (this.bufferedBytes > 0) flow.wrote(this, joined)
  }
}
