import {
  encodeSafely,
  type Format,
  type Frame,
  Hub,
  type OnUnencodable,
  type Subscriber
} from '../channels/index.js'
import { type Message, serverMessage } from '../messages/index.js'
import { MAX_LISTED, type Presence } from './presence.js'

/**
 * How long events are gathered after the last push of a channel, in milliseconds: at least, at most, and for each write of the
 * last second, to clients of all channels. A lone event is pushed at once. So clients that join many channels one by one cause
 * some thousand writes a second, where each would cause one for each client that is there.
 */
const GATHERING = 50
const LONGEST_GATHERING = 1000
const GATHERING_PER_WRITE = 0.1

/** How often the number of members of a large channel is pushed, in milliseconds. */
const SUMMARY_INTERVAL = 1000

/**
 * A large channel stays large until it has at most this many members. Otherwise one member that comes and goes at the
 * limit would cause a full list each time.
 */
const LARGE_UNTIL = MAX_LISTED * 0.9

const READER = { read: true, write: false }

/** A channel whose events are pushed to at least one subscriber. */
interface PushedChannel {
  subscribers: number
  /** Events that wait for the next push. */
  pending: Message[]
  /** Subscribers that were added while events were pending, with the number of events that are older than they are. */
  late: Map<Subscriber, number>
  /** When events were last pushed (`performance.now()`). */
  pushedAt: number
  timer: NodeJS.Timeout | undefined
  /** Whether the channel is large: the number of members is pushed instead of events. */
  large: boolean
  /** The last such push. */
  summary: Message | undefined
  stop: () => void
}

/**
 * Pushes events to subscribers when clients join and leave presence channels. It has a hub of its own, so an event is
 * encoded once per format. Events of a crowd are pushed together, because n clients that join one by one would cost n²
 * writes. Above MAX_LISTED members, the number of members is pushed instead, once a second. When there are fewer again,
 * the full list is pushed.
 */
export class JoinLeavePush {
  readonly #presence: Presence
  readonly #hub: Hub
  readonly #onUnencodable: OnUnencodable
  readonly #channels = new Map<string, PushedChannel>()
  /** The writes of the last second, as of a moment: older ones count less and less. */
  #writes = 0
  #countedAt = 0

  /** @param onUnencodable is called for an event that a format cannot encode */
  constructor(presence: Presence, onUnencodable: OnUnencodable) {
    this.#presence = presence
    this.#onUnencodable = onUnencodable
    this.#hub = new Hub(() => {}, onUnencodable)
  }

  /**
   * Pushes the events of a channel to a subscriber from now on. To be called once for each subscriber and channel.
   * @param you the id of the subscriber's connection, which the list names
   * @returns a message with the current members, or their number. The events follow on it without a gap.
   */
  add(subscriber: Subscriber, channel: string, you?: string): Message {
    const pushed = this.#channels.get(channel) ?? this.#open(channel)
    pushed.subscribers++
    if (pushed.pending.length > 0) pushed.late.set(subscriber, pushed.pending.length)
    else this.#hub.join(subscriber, [channel], READER)
    if (!pushed.large) return this.#list(channel, you)
    pushed.summary ??= this.#summary(channel)
    return pushed.summary
  }

  /** Ends what `add` began. */
  remove(subscriber: Subscriber, channel: string): void {
    const pushed = this.#channels.get(channel)
    if (pushed === undefined) return
    if (!pushed.late.delete(subscriber)) this.#hub.leave(subscriber, [channel], READER)
    if (--pushed.subscribers > 0) return
    this.#channels.delete(channel)
    clearTimeout(pushed.timer)
    pushed.stop()
  }

  #open(channel: string): PushedChannel {
    const stop = this.#presence.watch(channel, (event, member) => {
      if (!pushed.large && this.#presence.isLarge(channel)) {
        pushed.large = true
        pushed.pending = []
      }
      if (!pushed.large) {
        pushed.pending.push(
          serverMessage(channel, { event: event === 'join' ? 'Join' : 'Leave', payload: member })
        )
      }
      const interval = pushed.large ? SUMMARY_INTERVAL : this.#gathering
      const wait = pushed.pushedAt + interval - performance.now()
      pushed.timer ??= setTimeout(() => this.#push(channel, pushed), Math.max(0, wait)).unref()
    })
    const pushed: PushedChannel = {
      subscribers: 0,
      pending: [],
      late: new Map(),
      pushedAt: Number.NEGATIVE_INFINITY,
      timer: undefined,
      large: this.#presence.isLarge(channel),
      summary: undefined,
      stop
    }
    this.#channels.set(channel, pushed)
    return pushed
  }

  #list(channel: string, you?: string): Message {
    const clients = this.#presence.members(channel)
    return serverMessage(channel, {
      event: 'Presence',
      payload: you === undefined ? { clients } : { clients, you }
    })
  }

  #summary(channel: string): Message {
    const { count, users } = this.#presence.summary(channel)
    return serverMessage(channel, { event: 'Presence', payload: { count, users } })
  }

  /** How long events are gathered now, in milliseconds. */
  get #gathering(): number {
    const writes = this.#writes * Math.exp((this.#countedAt - performance.now()) / 1000)
    return Math.min(LONGEST_GATHERING, Math.max(GATHERING, writes * GATHERING_PER_WRITE))
  }

  #count(writes: number): void {
    const now = performance.now()
    this.#writes = this.#writes * Math.exp((this.#countedAt - now) / 1000) + writes
    this.#countedAt = now
  }

  #push(channel: string, pushed: PushedChannel): void {
    const { pending, late, subscribers } = pushed
    this.#count(subscribers)
    pushed.pending = []
    pushed.late = new Map()
    pushed.timer = undefined
    pushed.pushedAt = performance.now()
    if (pushed.large) {
      for (const subscriber of late.keys()) this.#hub.join(subscriber, [channel], READER)
      pushed.large = this.#presence.count(channel) > LARGE_UNTIL
      pushed.summary = pushed.large ? this.#summary(channel) : undefined
      this.#hub.deliver(pushed.summary ?? this.#list(channel))
      return
    }
    for (const message of pending) this.#hub.deliver(message)
    const encoded = new Map<Format, (Frame | undefined)[]>()
    for (const [subscriber, older] of late) {
      const { format } = subscriber
      const all =
        encoded.get(format) ?? pending.map((message) => encodeSafely(format, message, this.#onUnencodable))
      encoded.set(format, all)
      const frames = all.slice(older).filter((frame) => frame !== undefined)
      if (frames.length > 0) subscriber.deliver(frames, Buffer.concat(frames.map(({ bytes }) => bytes)))
      // Only now, because the hub has just delivered these events to its subscribers.
      this.#hub.join(subscriber, [channel], READER)
    }
  }
}
