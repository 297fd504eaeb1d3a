import type { Message } from '../messages/index.js'
import { isPublicChannel } from './audience-channels.js'
import { ChannelRates } from './channel-rates.js'
import { encodeSafely, type Format, type Frame, joinFrames, type OnUnencodable } from './frames.js'

/** A connection, or anything else that receives the messages of channels. */
export interface Subscriber {
  /** Its wire format. Subscribers with the same format share the encoded message. */
  readonly format: Format
  /**
   * Receives the messages of one turn of the event loop, in order.
   * @param frames one for each message, encoded by the format
   * @param joined the same bytes in one buffer
   */
  deliver(frames: readonly Frame[], joined: Buffer): void
}

/** What a subscriber may do in a channel. */
export interface Permissions {
  read: boolean
  write: boolean
}

/** A channel that clients have joined, as `GET /channels` shows it. */
export interface ChannelSummary {
  channel: string
  /** How many connections have joined it, and how many of them may read and write. */
  connections: number
  readers: number
  writers: number
}

/** The same, with how many messages a second it delivers. */
export interface RatedChannel extends ChannelSummary {
  /** Messages times readers, of the last seconds; null: it is measured only now, because somebody asks. */
  rate: number | null
}

/** The readers of a channel that share a wire format. */
interface FormatGroup {
  format: Format
  /** Readers of this channel only. They share one buffer with the frames of a turn. */
  single: Set<Subscriber>
  /** Readers of several channels. Their frames are gathered for each of them, so that the order holds across channels. */
  multiple: Set<Subscriber>
  /** The frames of this turn for `single`. */
  pending: Frame[]
  /** Members of `single` that joined while frames were pending, with the number of frames from before they joined. */
  late: Map<Subscriber, number>
}

interface Channel {
  groups: Map<Format, FormatGroup>
  listeners: Set<(text: string) => void>
  connections: number
  readers: number
  writers: number
  /** Messages times readers. */
  delivered: number
}

/** How long one turn of the event loop may write, in milliseconds. The rest waits for the next turn. */
const SLICE = 10

/**
 * The subscribers of channels, and the fan-out to them. A message is encoded once. Messages that arrive together from the
 * database leave in one write per subscriber, at the end of the turn of the event loop. A lone message leaves in the turn
 * in which it arrives. The work for a message depends on the readers of its channel alone.
 *
 * Writing is done in rounds. A round writes everything that is pending, and may span several turns, so that thousands of
 * writes do not block the event loop. Messages that arrive in the meantime belong to the next round.
 */
export class Hub {
  readonly #channels = new Map<string, Channel>()
  readonly #rates = new ChannelRates(() => this.#delivered())
  #dirty: FormatGroup[] = []
  #gathered = new Map<Subscriber, Frame[]>()
  /** The gathered frames of the current round. */
  #leaving = new Map<Subscriber, Frame[]>()
  #round: Iterator<void> | undefined
  #turn: NodeJS.Immediate | undefined
  readonly #onListenerError: (error: unknown) => void
  readonly #onUnencodable: OnUnencodable

  /** @param onListenerError is called with what a function passed to `listen` throws */
  constructor(onListenerError: (error: unknown) => void, onUnencodable: OnUnencodable) {
    this.#onListenerError = onListenerError
    this.#onUnencodable = onUnencodable
  }

  /** Adds a subscriber to channels. To be called once for each subscriber and channel. */
  join(subscriber: Subscriber, channels: readonly string[], { read, write }: Permissions): void {
    for (const name of channels) {
      const channel = this.#open(name)
      channel.connections++
      if (write) channel.writers++
      if (!read) continue
      channel.readers++
      const group = groupOf(channel, subscriber.format)
      if (channels.length > 1) {
        group.multiple.add(subscriber)
        continue
      }
      group.single.add(subscriber)
      if (group.pending.length > 0) group.late.set(subscriber, group.pending.length)
    }
  }

  /** Removes a subscriber from channels. Takes the arguments that `join` was called with. */
  leave(subscriber: Subscriber, channels: readonly string[], { read, write }: Permissions): void {
    this.#gathered.delete(subscriber)
    this.#leaving.delete(subscriber)
    for (const name of channels) {
      const channel = this.#channels.get(name)
      if (channel === undefined) continue
      channel.connections--
      if (write) channel.writers--
      if (read) {
        channel.readers--
        const group = channel.groups.get(subscriber.format)
        group?.single.delete(subscriber)
        group?.late.delete(subscriber)
        group?.multiple.delete(subscriber)
        if (group?.single.size === 0 && group.multiple.size === 0) {
          channel.groups.delete(subscriber.format)
        }
      }
      this.#closeIfEmpty(name, channel)
    }
  }

  /**
   * Calls a function with each message of a channel.
   * @returns a function that ends it
   */
  listen(name: string, listener: (text: string) => void): () => void {
    // Wrapped, because the same function may be passed twice.
    const own = (text: string) => listener(text)
    this.#open(name).listeners.add(own)
    return () => {
      const channel = this.#channels.get(name)
      if (channel?.listeners.delete(own)) this.#closeIfEmpty(name, channel)
    }
  }

  /** Whether a message of the channel has receivers. */
  hasListeners(name: string): boolean {
    return this.#channels.has(name)
  }

  /**
   * Delivers a message to the readers of its channel.
   * @returns the number of subscribers, without functions that were passed to `listen`
   */
  deliver(message: Message): number {
    const channel = this.#channels.get(message.channel)
    if (channel === undefined) return 0
    let subscribers = 0
    for (const group of channel.groups.values()) {
      const frame = encodeSafely(group.format, message, this.#onUnencodable)
      if (frame === undefined) continue
      subscribers += group.single.size + group.multiple.size
      if (group.single.size > 0) {
        if (group.pending.length === 0) this.#dirty.push(group)
        group.pending.push(frame)
      }
      for (const subscriber of group.multiple) {
        const frames = this.#gathered.get(subscriber)
        if (frames === undefined) this.#gathered.set(subscriber, [frame])
        else frames.push(frame)
      }
      this.#turn ??= setImmediate(() => this.#write())
    }
    for (const listener of channel.listeners) {
      try {
        listener(message.text)
      } catch (error) {
        this.#onListenerError(error)
      }
    }
    channel.delivered += subscribers
    return subscribers
  }

  /** Writes everything that is pending, now. */
  flush(): void {
    while (this.#turn !== undefined) {
      clearImmediate(this.#turn)
      this.#write(Number.POSITIVE_INFINITY)
    }
  }

  /** Writes for one turn of the event loop. */
  #write(slice = SLICE): void {
    this.#turn = undefined
    const end = performance.now() + slice
    this.#round ??= this.#begin()
    while (!this.#round.next().done) {
      if (performance.now() < end) continue
      this.#turn = setImmediate(() => this.#write())
      return
    }
    this.#round = undefined
    // Messages that arrived during a round of several turns.
    if (this.#dirty.length > 0 || this.#gathered.size > 0) this.#turn = setImmediate(() => this.#write())
  }

  /** Starts a round, which yields after each subscriber. */
  #begin(): Iterator<void> {
    const batches = this.#dirty.map(takePending)
    this.#dirty = []
    this.#leaving = this.#gathered
    this.#gathered = new Map()
    return this.#deliverAll(batches)
  }

  *#deliverAll(batches: ReturnType<typeof takePending>[]): Generator<void> {
    for (const { group, frames, late, members } of batches) {
      const joined = joinFrames(frames)
      for (const subscriber of members) {
        if (!group.single.has(subscriber)) continue
        const older = late?.get(subscriber)
        if (older === undefined) subscriber.deliver(frames, joined)
        else if (older < frames.length)
          subscriber.deliver(frames.slice(older), joinFrames(frames.slice(older)))
        yield
      }
    }
    for (const [subscriber, frames] of this.#leaving) {
      subscriber.deliver(frames, joinFrames(frames))
      yield
    }
  }

  /** The number of channels with subscribers or listeners. */
  get joinedChannels(): number {
    return this.#channels.size
  }

  /** The channels that clients have joined, without the internal ones. */
  summary(): ChannelSummary[] {
    const summary: ChannelSummary[] = []
    for (const [channel, { connections, readers, writers }] of this.#channels) {
      if (connections > 0 && isPublicChannel(channel))
        summary.push({ channel, connections, readers, writers })
    }
    return summary
  }

  /** The same with rates, one by one, so that the caller can give other work a turn. */
  *rated(): Generator<RatedChannel> {
    this.#rates.ask()
    for (const [channel, { connections, readers, writers, delivered }] of this.#channels) {
      if (connections > 0 && isPublicChannel(channel)) {
        yield { channel, connections, readers, writers, rate: this.#rates.of(channel, delivered) }
      }
    }
  }

  *#delivered(): Generator<[channel: string, delivered: number]> {
    for (const [channel, { delivered }] of this.#channels) yield [channel, delivered]
  }

  #open(name: string): Channel {
    let channel = this.#channels.get(name)
    if (channel === undefined) {
      channel = {
        groups: new Map(),
        listeners: new Set(),
        connections: 0,
        readers: 0,
        writers: 0,
        delivered: 0
      }
      this.#channels.set(name, channel)
    }
    return channel
  }

  #closeIfEmpty(name: string, channel: Channel): void {
    if (channel.connections === 0 && channel.listeners.size === 0) this.#channels.delete(name)
  }
}

function groupOf(channel: Channel, format: Format): FormatGroup {
  let group = channel.groups.get(format)
  if (group === undefined) {
    group = { format, single: new Set(), multiple: new Set(), pending: [], late: new Map() }
    channel.groups.set(format, group)
  }
  return group
}

function takePending(group: FormatGroup) {
  const { pending: frames, late, single } = group
  group.pending = []
  if (late.size > 0) group.late = new Map()
  return { group, frames, late: late.size > 0 ? late : undefined, members: [...single] }
}
