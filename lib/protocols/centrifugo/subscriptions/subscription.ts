import {
  type Format,
  type Frame,
  joinFrames,
  type Permissions,
  type Subscriber
} from '../../../channels/index.js'
import type { Connection } from '../../../clients/index.js'
import { HeldFrames } from '../../../flow/index.js'
import type { ProtocolError } from '../wire/protocol.js'
import type { SdkFrame } from '../wire/publication.js'

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
  /** Ends the subscription because its token has expired. */
  expire(subscription: Subscription): void
}

/** A client's subscription to a channel. Messages are held until it is answered, and while older ones are replayed. */
export class Subscription implements Subscriber {
  readonly format: Format
  readonly channel: string
  readonly serverSide: boolean
  readonly recoverable: boolean
  /** When its own token expires, in milliseconds since the epoch; undefined if it has none, or that never expires. */
  expiresAt: number | undefined
  /** Whether a token of its own allows it, whatever the connection token says. */
  ownToken = false
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
  /** Ends the LISTEN of a raw channel. */
  leaveRaw: (() => void) | undefined
  readonly #connection: Connection
  readonly #owner: SubscriptionOwner
  readonly #ends: Ends
  #held: HeldFrames | undefined

  constructor(options: SubscriptionOptions) {
    this.channel = options.channel
    this.format = options.connection.format
    this.serverSide = options.serverSide
    this.recoverable = options.recoverable
    this.#connection = options.connection
    this.#ends = options.ends
    this.#held = new HeldFrames(options.maxHeldBytes)
    this.#owner = options.owner
  }

  deliver(frames: readonly Frame[], joined: Buffer): void {
    const held = this.#held
    if (held?.holding) {
      // If some are dropped, `release` notices it.
      held.add(frames)
      return
    }
    const end = this.#ends.indexIn(frames)
    let passed = end === -1 ? frames : frames.slice(0, end + 1)
    if (held !== undefined) {
      passed = held.fresh(passed)
      if (held.done) this.#held = undefined
    }
    if (passed.length === frames.length) this.#connection.deliver(frames, joined)
    else if (passed.length > 0) this.#connection.deliver(passed, joinFrames(passed))
    if (end !== -1) this.#owner.incomplete(this, true)
  }

  /**
   * Delivers what was held. From now on messages are delivered at once.
   * @param position the position up to which the client has durable messages; undefined if the channel has none
   */
  release(position: number | undefined): void {
    const held = this.#held!
    const frames = held.release(position)
    if (held.done) this.#held = undefined
    if (frames === undefined) this.#owner.incomplete(this, false)
    else if (frames.length > 0) this.deliver(frames, joinFrames(frames))
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
