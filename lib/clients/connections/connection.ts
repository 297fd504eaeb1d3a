import { setTimeout as sleep } from 'node:timers/promises'
import type { Access, Caller } from '../../auth/index.js'
import { type Format, type Frame, joinFrames } from '../../channels/index.js'
import { type FlowControl, HeldFrames, type Waiting } from '../../flow/index.js'
import type { Sender } from '../../messages/index.js'
import type { ClientConnection } from './client-connection.js'
import type { CloseReason } from './close-reason.js'
import type { Remote } from './remote.js'
import type { TransportName } from './transport.js'

/** The close codes that this server uses (RFC 6455, section 7.4.2: 3000 to 3999 are for libraries and frameworks). */
export const CLOSE = {
  GOING_AWAY: 1001,
  INVALID_DATA: 1007,
  TOO_BIG: 1009,
  NOT_PUBLISHED: 1011,
  SERVICE_RESTART: 1012,
  DISCONNECTED: 3000,
  JWT_EXPIRED: 3001,
  SLOW: 3008,
  TOKEN_REVOKED: 3500
} as const

/** What all connections of a server share. */
export interface ConnectionContext {
  /** Limits how much may wait for clients. */
  readonly flow: FlowControl
  /** Is called when a client's transport has ended, with the close code and the reason. */
  onEnd: (connection: Connection, code: number, reason: string) => void
  /** Totals of what was sent to all clients. */
  sent: { messages: number; bytes: number }
  /**
   * Lets a client for which too much waits continue with the stored messages, if they have all that it misses.
   * @param frames what is not sent to it
   * @returns whether it does
   */
  fallBehind: (connection: Connection, frames: readonly Frame[]) => boolean
}

/** How long to wait until more may wait for clients, in milliseconds. */
const ROOM_INTERVAL = 250

/** For how long a client that reads may take nothing, in milliseconds: the time between two pings. */
const READING = 30_000

export interface ConnectionOptions {
  /** Its number on this server. */
  id: number
  /** Its client, as the request describes it. */
  remote: Remote
  /** What the envelopes of its messages say of it; undefined if it will never need one. */
  sender: Sender | undefined
  /** The identity with which SQL functions are called for it; undefined if none will be called. */
  caller: Caller | undefined
  /** One object for all connections. */
  context: ConnectionContext
}

/**
 * The connection of one client, independent of its protocol. A server has many thousands of them, so it stores no more of
 * the token than it needs.
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
  /** The claim `jti` of its token. */
  tokenId: string | undefined
  /** The claim `iat` of its token, in milliseconds since the epoch. */
  issuedAt: number | undefined
  readonly address: string
  readonly userAgent: string | undefined
  sender: Sender | undefined
  caller: Caller | undefined
  /** Milliseconds since the epoch. */
  readonly openedAt = Date.now()
  /** The group with which it is pinged. */
  pingGroup = 0
  /** Why the server has closed it; undefined: it has not. */
  closedFor: CloseReason | undefined
  writtenBytes = 0
  /** How many messages were sent to it, and how many of its own were accepted for publishing. */
  sentMessages = 0
  receivedMessages = 0
  waiting: Waiting | undefined
  /** Set while older messages are replayed, and for a moment after that. */
  #held: HeldFrames | undefined
  readonly #context: ConnectionContext

  constructor(access: Access, { id, remote, sender, caller, context }: ConnectionOptions) {
    const { channels, read, write, expiresAt, subject, tokenId, issuedAt } = access
    this.id = id
    this.address = remote.address
    this.userAgent = remote.userAgent
    this.subject = subject
    this.channels = channels
    this.read = read
    this.write = write
    this.expiresAt = expiresAt
    this.tokenId = tokenId
    this.issuedAt = issuedAt
    this.sender = sender
    this.caller = caller
    this.#context = context
  }

  abstract get transport(): TransportName
  abstract get open(): boolean
  abstract get bufferedBytes(): number
  abstract get unsentBytes(): number
  abstract get copiedBytes(): number
  /** Writes frames; `joined` has the same bytes in one buffer. */
  protected abstract send(frames: readonly Frame[], joined: Buffer): void
  /** The encoding of Centrifugo's protocol; undefined for clients of another protocol. */
  get protocol(): 'json' | 'protobuf' | undefined {
    return undefined
  }
  abstract drained(): Promise<void>
  abstract ping(): void
  /** Closes as the protocol expresses it. */
  protected abstract sendClose(code: number, reason: string): void
  abstract terminate(): void

  close(code: number, reason: string, cause: CloseReason): void {
    this.closing(cause)
    this.sendClose(code, reason)
  }

  /** To be called before the server closes or terminates it, with the reason. The first one counts. */
  closing(cause: CloseReason): void {
    if (this.open) this.closedFor ??= cause
  }

  /** To be called when the transport has ended. */
  ended(code: number, reason: string): void {
    this.#context.onEnd(this, code, reason)
  }

  goAway(code: number, reason: string, cause: CloseReason): void {
    this.close(code, reason, cause)
  }

  expire(): void {
    this.close(CLOSE.JWT_EXPIRED, 'JWT expired', 'token-expired')
  }

  revoke(): void {
    this.close(CLOSE.TOKEN_REVOKED, 'token revoked', 'token-revoked')
  }

  disconnect(code: number, reason: string): void {
    this.close(code, reason, 'disconnected')
  }

  deliver(frames: readonly Frame[], joined: Buffer): void {
    if (!this.open) return
    if (this.#held === undefined) this.#deliver(frames, joined)
    else if (!this.#held.holding) this.#deliverFresh(this.#held, frames, joined)
    else this.#hold(this.#held, frames)
  }

  #hold(held: HeldFrames, frames: readonly Frame[]): void {
    if (!held.add(frames)) this.#context.flow.close(this, 'limit')
  }

  #deliverFresh(held: HeldFrames, frames: readonly Frame[], joined: Buffer): void {
    const fresh = held.fresh(frames)
    if (held.done) this.#held = undefined
    if (fresh.length === frames.length) this.#deliver(frames, joined)
    else if (fresh.length > 0) this.#deliver(fresh, joinFrames(fresh))
  }

  #deliver(frames: readonly Frame[], joined: Buffer): void {
    if (this.#hasRoomFor(joined)) this.#sendAll(frames, joined)
    else if (this.fallBehind(frames)) this.#hold(this.#held!, frames)
    else if (this.#context.flow.mayWait(this, joined.length)) this.#sendAll(frames, joined)
  }

  /** While nothing waits, a message of any size is accepted. */
  #hasRoomFor(joined: Buffer): boolean {
    const { bufferedBytes } = this
    return bufferedBytes === 0 || bufferedBytes + joined.length <= this.#context.flow.maxBufferedBytes
  }

  /**
   * Delivers frames unless too much waits for the client.
   * @returns false if they were not sent
   */
  offer(frames: readonly Frame[], joined: Buffer): boolean {
    if (!this.open) return true
    const room = this.#hasRoomFor(joined)
    if (room) this.#sendAll(frames, joined)
    return room
  }

  /**
   * To be called when frames are too many for the client.
   * @returns whether it continues with the stored messages; false: the frames must be sent
   */
  protected fallBehind(frames: readonly Frame[]): boolean {
    return this.#context.fallBehind(this, frames)
  }

  /** Notes that the client, or one of its subscriptions, continues with the stored messages. */
  fellBehind(): void {
    this.#context.flow.fellBehind(this)
  }

  /** Whether little enough waits for all clients that older messages may be written to this one. */
  get mayReplay(): boolean {
    return this.#context.flow.hasRoom
  }

  /** Resolves when it has taken all that waited and older messages may be written, or when it has ended. */
  async ready(): Promise<void> {
    await this.drained()
    while (this.open && !this.mayReplay) await sleep(ROOM_INTERVAL, undefined, { ref: false })
  }

  /** For how long the client has taken nothing of what waits for it, in milliseconds. */
  protected get stalledFor(): number {
    return this.#context.flow.stalledFor(this)
  }

  /** Whether the client has taken some of the waiting bytes after the last ping. A ping is sent after these bytes. */
  protected get reading(): boolean {
    return this.waiting !== undefined && this.stalledFor < READING
  }

  /** Closes the client because it reads so slowly that messages were deleted before it was sent them. */
  closeExpired(): void {
    if (this.open) this.#context.flow.close(this, 'expired')
  }

  /** Closes the client because it takes nothing of what waits for it. */
  protected closeStalled(): void {
    this.#context.flow.close(this, 'stalled')
  }

  closeSlow(): void {
    this.close(CLOSE.SLOW, 'slow', 'slow')
  }

  /** Holds new messages from now on, while older ones are replayed. */
  hold(): void {
    this.#held = new HeldFrames(this.#context.flow.maxBufferedBytes)
  }

  /** Drops durable messages, which are read again; see HeldFrames. */
  skip(): void {
    this.#held!.skip()
  }

  /** Holds durable messages again; see HeldFrames. */
  keep(): void {
    this.#held!.keep()
  }

  /** Sends older messages, ahead of those that are held. */
  replay(frames: readonly Frame[], joined = joinFrames(frames)): void {
    if (this.open && frames.length > 0) this.#sendAll(frames, joined)
  }

  /**
   * Sends the messages that were held, except durable ones that were replayed.
   * @param position the position of the last message that was replayed
   * @returns false if some were dropped, because there were too many: the replay must continue then
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
    this.sentMessages += frames.length
    this.writtenBytes += joined.length
    this.send(frames, joined)
    if (this.bufferedBytes > 0) flow.wrote(this, joined)
  }
}
