import type { TokenIdentity } from '../../../auth/index.js'
import {
  type Format,
  type Frame,
  joinFrames,
  type Permissions,
  type Subscriber
} from '../../../channels/index.js'
import type { Connection, Follower } from '../../../clients/index.js'
import { HeldFrames } from '../../../flow/index.js'
import type { SdkFrame } from '../wire/formats.js'
import type { ProtocolError } from '../wire/protocol.js'

export interface SubscriptionOptions {
  channel: string
  connection: Connection
  /** Whether the claim `subs` of the connection token asks for it, not the client. */
  serverSide: boolean
  /** Whether its messages have positions. */
  recoverable: boolean
  /** How many bytes may be held before it is answered. */
  maxHeldBytes: number
  owner: SubscriptionOwner
  /** One for all subscriptions. */
  ends: Ends
}

/** The owner of a subscription, which ends it. */
export interface SubscriptionOwner {
  /**
   * Ends the subscription because messages are missing. The client must subscribe again.
   * @param notified whether the client knows already
   */
  incomplete(subscription: Subscription, notified: boolean): void
  /**
   * Continues the subscription with the stored messages, because too much waits for the client.
   * @param after the position after which the client has been sent nothing
   */
  behind(subscription: Subscription, after: number): void
  /** Ends the subscription because its token has expired. */
  expire(subscription: Subscription): void
}

/** A client's subscription to a channel. Messages are held until it is answered, and while older ones are replayed. */
export class Subscription implements Subscriber, Follower {
  readonly format: Format
  readonly channel: string
  readonly serverSide: boolean
  readonly recoverable: boolean
  /** When its own token expires, in milliseconds since the epoch; undefined if it has none, or that never expires. */
  expiresAt: number | undefined
  /** Whether a token of its own allows it, whatever the connection token says. */
  ownToken = false
  /** What identifies its own token. */
  tokenIdentity: TokenIdentity | undefined
  /** Whether its own token allows writing. */
  write = false
  /** The permissions with which it joined the hub. */
  permissions: Permissions = { read: true, write: false }
  /** Whether the client knows that it is subscribed. */
  answered = false
  /** Why it was ended before it was answered. */
  refusal: ProtocolError | undefined
  /** Whether the client receives join and leave pushes. */
  joinLeave = false
  /** Ends what its messages need to arrive at this node. */
  leave: (() => void) | undefined
  /** Whether it has ended. */
  ended = false
  readonly #connection: Connection
  readonly #owner: SubscriptionOwner
  readonly #ends: Ends
  readonly #maxHeldBytes: number
  #held: HeldFrames | undefined

  constructor(options: SubscriptionOptions) {
    this.channel = options.channel
    this.format = options.connection.format
    this.serverSide = options.serverSide
    this.recoverable = options.recoverable
    this.#connection = options.connection
    this.#ends = options.ends
    this.#maxHeldBytes = options.maxHeldBytes
    this.#held = new HeldFrames(options.maxHeldBytes)
    this.#owner = options.owner
  }

  deliver(frames: readonly Frame[], joined: Buffer): void {
    const held = this.#held
    if (held?.holding) {
      // If it is not answered yet, `release` notices that some are dropped.
      if (!held.add(frames) && this.answered) this.insufficient()
      return
    }
    const end = this.#ends.indexIn(frames)
    let passed = end === -1 ? frames : frames.slice(0, end + 1)
    if (held !== undefined) {
      passed = held.fresh(passed)
      if (held.done) this.#held = undefined
    }
    if (passed.length === 0) return
    const sent = this.#send(passed, passed.length === frames.length ? joined : joinFrames(passed))
    if (end !== -1) this.#owner.incomplete(this, sent)
    else if (!sent) this.#fallBehind(passed)
  }

  /** @returns false if too much waits for the client and the frames can be read again */
  #send(frames: readonly Frame[], joined: Buffer): boolean {
    if (this.recoverable) {
      if (this.#connection.offer(frames, joined)) return true
      if (frames.some(({ position }) => position !== undefined)) return false
    }
    this.#connection.deliver(frames, joined)
    return true
  }

  #fallBehind(frames: readonly Frame[]): void {
    const first = frames.find(({ position }) => position !== undefined)!.position!
    this.#held = new HeldFrames(this.#maxHeldBytes)
    this.#held.skip()
    if (!this.#held.add(frames)) this.insufficient()
    else this.#owner.behind(this, first - 1)
  }

  /**
   * Delivers what was held. From now on messages are delivered at once.
   * @param position the position up to which the client has durable messages; undefined if the channel has none
   * @returns false if some were dropped
   */
  release(position: number | undefined): boolean {
    const held = this.#held!
    const frames = held.release(position)
    if (held.done) this.#held = undefined
    if (frames === undefined) return false
    if (frames.length > 0) this.deliver(frames, joinFrames(frames))
    return true
  }

  /** Delivers what was held of a channel that has no stored messages. */
  startLive(): void {
    if (!this.release(undefined)) this.insufficient()
  }

  get open(): boolean {
    return !this.ended && this.#connection.open
  }

  skip(): void {
    this.#held!.skip()
  }

  keep(): void {
    this.#held!.keep()
  }

  replay(frames: readonly SdkFrame[], joined: Buffer): void {
    const end = frames.findIndex(({ ends }) => ends)
    if (end === -1) this.#connection.replay(frames, joined)
    else {
      this.#connection.replay(frames.slice(0, end))
      this.insufficient()
    }
  }

  /** To be called when messages may be missing. The client must subscribe again. */
  insufficient(): void {
    this.#owner.incomplete(this, false)
  }

  /** Its token has ended. */
  expire(): void {
    this.#owner.expire(this)
  }
}

/**
 * Finds the frame that ends a subscription. Many subscriptions get the same frames one after the other, so these are
 * searched once.
 */
export class Ends {
  #frames: readonly Frame[] | undefined
  #end = -1

  /** @returns the index of the frame; -1 if there is none */
  indexIn(frames: readonly Frame[]): number {
    if (frames !== this.#frames) {
      this.#frames = frames
      this.#end = frames.findIndex(({ ends }: SdkFrame) => ends)
    }
    return this.#end
  }
}
