import type { Message } from '../messages/index.js'
import { isPublicChannel } from './audience-channels.js'
import { encodeSafely, type Format, type Frame, joinFrames, type OnUnencodable } from './frames.js'

/** One socket, or whatever else takes the messages of channels. */
export interface Subscriber {
  /** The wire format that it reads. Subscribers of one format share the encoded message. */
  readonly format: Format
  /**
   * Takes the messages of one turn of the event loop, in order.
   * @param frames one for each message, as the format encoded them
   * @param joined the same bytes in one piece
   */
  deliver(frames: readonly Frame[], joined: Buffer): void
}

/** What a subscriber may do in a channel. */
export interface Permissions {
  read: boolean
  write: boolean
}

/** A connected channel, as the control plane shows it. */
export interface ChannelSummary {
  channel: string
  connections: number
  readers: number
  writers: number
}

/** The readers of one channel that share a wire format. */
interface FormatGroup {
  format: Format
  /** In this channel only: they get the frames of a turn in one piece made for all of them. */
  single: Set<Subscriber>
  /** In several channels: their frames are gathered for each of them, so that order holds across channels. */
  multiple: Set<Subscriber>
  /** This turn's frames for `single`. */
  pending: Frame[]
  /** Those in `single` who joined while frames were pending, with how many of these are older than they are. */
  late: Map<Subscriber, number>
}

interface Channel {
  groups: Map<Format, FormatGroup>
  listeners: Set<(text: string) => void>
  connections: number
  readers: number
  writers: number
}

/** How long one turn of the event loop may go on writing, in milliseconds: the rest waits for the next. */
const SLICE = 10

/**
 * Who is in which channel, and the fan-out to them. Messages are encoded once and written once a turn of the
 * event loop: what arrived from the database together leaves in one write for each socket. A lone message
 * leaves in the turn that it came in. Work for a message depends on its channel's readers alone.
 *
 * Writing goes in rounds. A round takes all that is pending, and may span several turns, so that thousands of
 * writes hold up nothing else; what comes meanwhile is the next round's.
 */
export class Hub {
  readonly #channels = new Map<string, Channel>()
  #dirty: FormatGroup[] = []
  #gathered = new Map<Subscriber, Frame[]>()
  /** The gathered frames of the round under way. */
  #leaving = new Map<Subscriber, Frame[]>()
  #round: Iterator<void> | undefined
  #turn: NodeJS.Immediate | undefined
  readonly #onListenerError: (error: unknown) => void
  readonly #onUnencodable: OnUnencodable

  /** @param onListenerError told what a function given to `listen` threw */
  constructor(onListenerError: (error: unknown) => void, onUnencodable: OnUnencodable) {
    this.#onListenerError = onListenerError
    this.#onUnencodable = onUnencodable
  }

  /** Takes a subscriber into channels, all at once. A subscriber joins once. */
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

  /** Takes a subscriber out of the channels that it joined, with the same arguments. */
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
    // Wrapped, so that the same function given twice is two listeners.
    const own = (text: string) => listener(text)
    this.#open(name).listeners.add(own)
    return () => {
      const channel = this.#channels.get(name)
      if (channel?.listeners.delete(own)) this.#closeIfEmpty(name, channel)
    }
  }

  /** Whether anybody would get a message of the channel. */
  hasListeners(name: string): boolean {
    return this.#channels.has(name)
  }

  /**
   * Delivers a message to everyone who reads its channel.
   * @returns to how many subscribers; functions given to `listen` are none
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
    return subscribers
  }

  /** Writes all that is pending, now. */
  flush(): void {
    while (this.#turn !== undefined) {
      clearImmediate(this.#turn)
      this.#write(Number.POSITIVE_INFINITY)
    }
  }

  /** One turn's part of the writing. */
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
    // What came while a round spanned several turns.
    if (this.#dirty.length > 0 || this.#gathered.size > 0) this.#turn = setImmediate(() => this.#write())
  }

  /** A round: yields after each subscriber. */
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

  /** How many channels somebody has joined, or listens to. */
  get joinedChannels(): number {
    return this.#channels.size
  }

  /** The channels of a name that clients know which somebody is connected to. */
  summary(): ChannelSummary[] {
    const summary: ChannelSummary[] = []
    for (const [channel, { connections, readers, writers }] of this.#channels) {
      if (connections > 0 && isPublicChannel(channel))
        summary.push({ channel, connections, readers, writers })
    }
    return summary
  }

  #open(name: string): Channel {
    let channel = this.#channels.get(name)
    if (channel === undefined) {
      channel = { groups: new Map(), listeners: new Set(), connections: 0, readers: 0, writers: 0 }
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
