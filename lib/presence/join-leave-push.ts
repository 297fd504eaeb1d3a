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

/** How long what comes after some events is gathered, in milliseconds. A lone event is told at once. */
const GATHERING = 50

/** How often those in a large channel are told how many they are, in milliseconds. */
const SUMMARY_INTERVAL = 1000

/** A channel is large until it has so few members: one that comes and goes must not have all listed each time. */
const MANAGEABLE = MAX_LISTED * 0.9

const READER = { read: true, write: false }

/** A channel whose events somebody is told. */
interface Told {
  subscribers: number
  /** Events that are to be told together. */
  pending: Message[]
  /** Those who came while events were pending, with how many of these are older than they are. */
  late: Map<Subscriber, number>
  /** When events were last told, as `performance.now()` has it. */
  toldAt: number
  timer: NodeJS.Timeout | undefined
  /** The channel is large: no events are told, but how many there are. */
  large: boolean
  /** What was last told of that. */
  summary: Message | undefined
  stop: () => void
}

/**
 * Tells subscribers of who joins and leaves presence channels, through a hub of its own: an event is encoded once for
 * each format. Of a crowd, many events leave in one write, because each of n who come would else be n writes. Above
 * MAX_LISTED members they are told how many there are instead, once a second; and when there are fewer again, who.
 */
export class JoinLeavePush {
  readonly #presence: Presence
  readonly #hub: Hub
  readonly #onUnencodable: OnUnencodable
  readonly #channels = new Map<string, Told>()

  /** @param onUnencodable told of events that a format cannot encode */
  constructor(presence: Presence, onUnencodable: OnUnencodable) {
    this.#presence = presence
    this.#onUnencodable = onUnencodable
    this.#hub = new Hub(() => {}, onUnencodable)
  }

  /**
   * Tells a subscriber of all that happens in a channel from now on; once for each subscriber and channel.
   * @returns a message that says who is there now, or how many: the events begin where this list ends
   */
  add(subscriber: Subscriber, channel: string): Message {
    const told = this.#channels.get(channel) ?? this.#open(channel)
    told.subscribers++
    if (told.pending.length > 0) told.late.set(subscriber, told.pending.length)
    else this.#hub.join(subscriber, [channel], READER)
    if (!told.large) return this.#list(channel)
    told.summary ??= this.#summary(channel)
    return told.summary
  }

  /** Undoes it. */
  remove(subscriber: Subscriber, channel: string): void {
    const told = this.#channels.get(channel)
    if (told === undefined) return
    if (!told.late.delete(subscriber)) this.#hub.leave(subscriber, [channel], READER)
    if (--told.subscribers > 0) return
    this.#channels.delete(channel)
    clearTimeout(told.timer)
    told.stop()
  }

  #open(channel: string): Told {
    const stop = this.#presence.watch(channel, (event, member) => {
      if (!told.large && this.#presence.isLarge(channel)) {
        told.large = true
        told.pending = []
      }
      if (!told.large) {
        told.pending.push(
          serverMessage(channel, { event: event === 'join' ? 'Join' : 'Leave', payload: member })
        )
      }
      const wait = told.toldAt + (told.large ? SUMMARY_INTERVAL : GATHERING) - performance.now()
      told.timer ??= setTimeout(() => this.#tell(channel, told), Math.max(0, wait)).unref()
    })
    const told: Told = {
      subscribers: 0,
      pending: [],
      late: new Map(),
      toldAt: Number.NEGATIVE_INFINITY,
      timer: undefined,
      large: this.#presence.isLarge(channel),
      summary: undefined,
      stop
    }
    this.#channels.set(channel, told)
    return told
  }

  #list(channel: string): Message {
    return serverMessage(channel, {
      event: 'Presence',
      payload: { clients: this.#presence.members(channel) }
    })
  }

  #summary(channel: string): Message {
    const { count, users } = this.#presence.summary(channel)
    return serverMessage(channel, { event: 'Presence', payload: { count, users } })
  }

  #tell(channel: string, told: Told): void {
    const { pending, late } = told
    told.pending = []
    told.late = new Map()
    told.timer = undefined
    told.toldAt = performance.now()
    if (told.large) {
      for (const subscriber of late.keys()) this.#hub.join(subscriber, [channel], READER)
      told.large = this.#presence.count(channel) > MANAGEABLE
      told.summary = told.large ? this.#summary(channel) : undefined
      this.#hub.deliver(told.summary ?? this.#list(channel))
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
      // Behind what the hub has just got, which it does not tell twice.
      this.#hub.join(subscriber, [channel], READER)
    }
  }
}
