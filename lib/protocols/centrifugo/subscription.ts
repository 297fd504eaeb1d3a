import type { Format, Frame, Permissions, Subscriber } from '../../channels/index.js'
import type { Connection } from '../../clients/index.js'
import type { ProtocolError } from './protocol.js'
import type { SdkFrame } from './publication.js'

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
}

/** Who ends a subscription. */
export interface SubscriptionOwner {
  /**
   * Something is missing: the client has to subscribe again.
   * @param told whether it has been told so
   */
  incomplete(subscription: Subscription, told: boolean): void
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
  toldOfPresence = false
  /** Ends the LISTEN of a raw channel. */
  leaveRaw: (() => void) | undefined
  readonly #connection: Connection
  readonly #maxHeldBytes: number
  readonly #owner: SubscriptionOwner
  #held: Frame[] | undefined = []
  #heldBytes = 0
  #overflowed = false
  /** Durable messages up to here are in the reply, or were before it. */
  #replayedTo: number | undefined

  constructor(options: SubscriptionOptions) {
    this.channel = options.channel
    this.format = options.connection.format
    this.serverSide = options.serverSide
    this.recoverable = options.recoverable
    this.#connection = options.connection
    this.#maxHeldBytes = options.maxHeldBytes
    this.#owner = options.owner
  }

  deliver(frames: readonly Frame[], joined: Buffer): void {
    if (this.#held !== undefined) {
      this.#hold(frames)
      return
    }
    const end = endOf(frames)
    const passed = this.#fresh(end === -1 ? frames : frames.slice(0, end + 1))
    if (passed.length === frames.length) this.#connection.deliver(frames, joined)
    else if (passed.length > 0) this.#deliver(passed)
    if (end !== -1) this.#owner.incomplete(this, true)
  }

  /**
   * Delivers what was held, from now on at once.
   * @param position up to which durable messages were replayed, or were there before
   */
  release(position: number | undefined): void {
    const held = this.#held ?? []
    this.#held = undefined
    this.#replayedTo = position
    if (this.#overflowed) this.#owner.incomplete(this, false)
    else if (held.length > 0) this.deliver(held, join(held))
  }

  /** Something may be missing: the client has to subscribe again. */
  insufficient(): void {
    this.#owner.incomplete(this, false)
  }

  /** Its token has ended. */
  expire(): void {
    this.#owner.expire(this)
  }

  #deliver(frames: readonly Frame[]): void {
    this.#connection.deliver(frames, join(frames))
  }

  #hold(frames: readonly Frame[]): void {
    for (const frame of frames) {
      this.#held!.push(frame)
      this.#heldBytes += frame.bytes.length
    }
    if (this.#heldBytes <= this.#maxHeldBytes) return
    this.#overflowed = true
    this.#held = []
    this.#heldBytes = 0
  }

  /** Positions grow, so the first that is new ends the filter. */
  #fresh(frames: readonly Frame[]): readonly Frame[] {
    const limit = this.#replayedTo
    if (limit === undefined) return frames
    return frames.filter(({ position }) => {
      if (position === undefined) return true
      if (position <= limit) return false
      this.#replayedTo = undefined
      return true
    })
  }
}

let lastFrames: readonly Frame[] | undefined
let lastEnd = -1

/** Where frames end a subscription; -1: nowhere. Many subscriptions get the same ones, one after the other. */
function endOf(frames: readonly Frame[]): number {
  if (frames !== lastFrames) {
    lastFrames = frames
    lastEnd = frames.findIndex((frame) => (frame as SdkFrame).ends)
  }
  return lastEnd
}

function join(frames: readonly Frame[]): Buffer {
  return frames.length === 1 ? frames[0]!.bytes : Buffer.concat(frames.map(({ bytes }) => bytes))
}
