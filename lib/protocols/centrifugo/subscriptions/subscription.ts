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
  /** By the connection's token, not asked for by the client. */
  serverSide: boolean
  /** Whether its messages have positions. */
  recoverable: boolean
  /** How many bytes may come before it is answered. */
  maxHeldBytes: number
  owner: SubscriptionOwner
  /** One for all subscriptions. */
  ends: Ends
}

/** Who ends a subscription. */
export interface SubscriptionOwner {
  /**
   * Something is missing: the client has to subscribe again.
   * @param notified whether the client has been told so
   */
  incomplete(subscription: Subscription, notified: boolean): void
  /** Its token has ended. */
  expire(subscription: Subscription): void
}

/** One channel of one client. What comes before it is answered, or while older messages are replayed, is held. */
export class Subscription implements Subscriber {
  readonly format: Format
  readonly channel: string
  readonly serverSide: boolean
  readonly recoverable: boolean
  /** By a token of its own: when that ends, in milliseconds since the epoch. */
  expiresAt: number | undefined
  /** Allowed by a token of its own, whatever the connection's says. */
  ownToken = false
  /** That token allows writing. */
  write = false
  /** With what it has joined the hub. */
  permissions: Permissions = { read: true, write: false }
  /** Its client has been told that it is in the channel. */
  answered = false
  /** Why it was ended before that. */
  refusal: ProtocolError | undefined
  /** Whether its client is told who comes and goes. */
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
      // What is lost of them shows when they are released.
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
   * Delivers what was held, from now on at once.
   * @param position up to which durable messages were replayed, or were there before; undefined where there are none
   */
  release(position: number | undefined): void {
    const held = this.#held!
    const frames = held.release(position)
    if (held.done) this.#held = undefined
    if (frames === undefined) this.#owner.incomplete(this, false)
    else if (frames.length > 0) this.deliver(frames, joinFrames(frames))
  }

  /** Something may be missing: the client has to subscribe again. */
  insufficient(): void {
    this.#owner.incomplete(this, false)
  }

  /** Its token has ended. */
  expire(): void {
    this.#owner.expire(this)
  }
}

/** Where frames end a subscription. Many subscriptions get the same ones, one after the other: they are searched once. */
export class Ends {
  #frames: readonly Frame[] | undefined
  #end = -1

  /** @returns the index of the frame; -1 where there is none */
  indexIn(frames: readonly Frame[]): number {
    if (frames !== this.#frames) {
      this.#frames = frames
      this.#end = frames.findIndex(({ ends }: SdkFrame) => ends)
    }
    return this.#end
  }
}
