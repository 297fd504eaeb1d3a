/** One socket, or whatever else takes the messages of channels. */
export interface Subscriber {
  /** The wire format that it reads. Subscribers of one format share the encoded message. */
  readonly format: Format
  /**
   * Takes the messages of one turn of the event loop, in order.
   * @param frames one for each message, as the format encoded them
   * @param joined the same bytes in one piece
   */
  deliver(frames: readonly Buffer[], joined: Buffer): void
}

/** What a message looks like on a wire; encodes it once for all subscribers that read this format. */
export interface Format {
  encode(message: string): Buffer
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
interface Audience {
  format: Format
  /** In this channel only: they get the frames of a turn in one piece made for all of them. */
  single: Set<Subscriber>
  /** In several channels: their frames are gathered for each of them, so that order holds across channels. */
  multiple: Set<Subscriber>
  /** This turn's frames for `single`. */
  pending: Buffer[]
}

interface Channel {
  audiences: Map<Format, Audience>
  listeners: Set<(message: string) => void>
  connections: number
  readers: number
  writers: number
}

/**
 * Who is in which channel, and the fan-out to them. Messages are encoded once and written once a turn of the
 * event loop: what arrived from the database together leaves in one write for each socket. A lone message
 * leaves in the turn that it came in. Work for a message depends on its channel's readers alone.
 */
export class Hub {
  readonly #channels = new Map<string, Channel>()
  readonly #dirty: Audience[] = []
  readonly #gathered = new Map<Subscriber, Buffer[]>()
  readonly #onListenerError: (error: unknown) => void
  #flush: NodeJS.Immediate | undefined

  /** @param onListenerError told what a function given to `listen` threw */
  constructor(onListenerError: (error: unknown) => void) {
    this.#onListenerError = onListenerError
  }

  /** Takes a subscriber into channels, all at once. A subscriber joins once. */
  join(subscriber: Subscriber, channels: readonly string[], { read, write }: Permissions): void {
    // Frames that wait for the end of this turn are older than the newcomer.
    this.flush()
    for (const name of channels) {
      const channel = this.#open(name)
      channel.connections++
      if (write) channel.writers++
      if (!read) continue
      channel.readers++
      const audience = audienceOf(channel, subscriber.format)
      const members = channels.length === 1 ? audience.single : audience.multiple
      members.add(subscriber)
    }
  }

  /** Takes a subscriber out of the channels that it joined, with the same arguments. */
  leave(subscriber: Subscriber, channels: readonly string[], { read, write }: Permissions): void {
    this.#gathered.delete(subscriber)
    for (const name of channels) {
      const channel = this.#channels.get(name)
      if (channel === undefined) continue
      channel.connections--
      if (write) channel.writers--
      if (read) {
        channel.readers--
        const audience = channel.audiences.get(subscriber.format)
        audience?.single.delete(subscriber)
        audience?.multiple.delete(subscriber)
        if (audience?.single.size === 0 && audience.multiple.size === 0) {
          channel.audiences.delete(subscriber.format)
        }
      }
      this.#closeIfEmpty(name, channel)
    }
  }

  /**
   * Calls a function with each message of a channel.
   * @returns a function that ends it
   */
  listen(name: string, listener: (message: string) => void): () => void {
    // Wrapped, so that the same function given twice is two listeners.
    const own = (message: string) => listener(message)
    this.#open(name).listeners.add(own)
    return () => {
      const channel = this.#channels.get(name)
      if (channel?.listeners.delete(own)) this.#closeIfEmpty(name, channel)
    }
  }

  /** Delivers a message to everyone who reads the channel. */
  deliver(name: string, message: string): void {
    const channel = this.#channels.get(name)
    if (channel === undefined) return
    for (const audience of channel.audiences.values()) {
      const frame = audience.format.encode(message)
      if (audience.single.size > 0) {
        if (audience.pending.length === 0) this.#dirty.push(audience)
        audience.pending.push(frame)
      }
      for (const subscriber of audience.multiple) {
        const frames = this.#gathered.get(subscriber)
        if (frames === undefined) this.#gathered.set(subscriber, [frame])
        else frames.push(frame)
      }
      this.#flush ??= setImmediate(() => this.flush())
    }
    for (const listener of channel.listeners) {
      try {
        listener(message)
      } catch (error) {
        this.#onListenerError(error)
      }
    }
  }

  /** Writes what waits for the end of this turn, now. */
  flush(): void {
    if (this.#flush === undefined) return
    clearImmediate(this.#flush)
    this.#flush = undefined
    for (const audience of this.#dirty.splice(0)) {
      const frames = audience.pending
      audience.pending = []
      const joined = join(frames)
      for (const subscriber of audience.single) subscriber.deliver(frames, joined)
    }
    for (const [subscriber, frames] of this.#gathered) subscriber.deliver(frames, join(frames))
    this.#gathered.clear()
  }

  /** The channels that somebody is connected to. */
  summary(): ChannelSummary[] {
    const summary: ChannelSummary[] = []
    for (const [channel, { connections, readers, writers }] of this.#channels) {
      if (connections > 0) summary.push({ channel, connections, readers, writers })
    }
    return summary
  }

  #open(name: string): Channel {
    let channel = this.#channels.get(name)
    if (channel === undefined) {
      channel = { audiences: new Map(), listeners: new Set(), connections: 0, readers: 0, writers: 0 }
      this.#channels.set(name, channel)
    }
    return channel
  }

  #closeIfEmpty(name: string, channel: Channel): void {
    if (channel.connections === 0 && channel.listeners.size === 0) this.#channels.delete(name)
  }
}

function audienceOf(channel: Channel, format: Format): Audience {
  let audience = channel.audiences.get(format)
  if (audience === undefined) {
    audience = { format, single: new Set(), multiple: new Set(), pending: [] }
    channel.audiences.set(format, audience)
  }
  return audience
}

function join(frames: readonly Buffer[]): Buffer {
  return frames.length === 1 ? frames[0]! : Buffer.concat(frames)
}
