/** A message that the sequencer announces, with its place in the order of all messages. */
export interface Announcement {
  channel: string
  position: number
  /** Everything of this channel up to this position was announced before. */
  previous: number
  /**
   * The number of the last beat before it. A node that has not heard that beat reads from the database first, because clients
   * of several channels continue from one position.
   */
  beat: number
  /** The message as a notification has it (see readNotification); undefined: it is too large, and is read from the database. */
  text: string | undefined
}

/**
 * Says what was announced in an interval of positions. A node that has heard less lacks messages, and reads them from the
 * database.
 */
export interface Beat {
  /** Another one for each beat, also for those in which nothing was announced. */
  number: number
  /** Everything up to this position was announced before the interval. */
  from: number
  /** The last position of the interval. Equal to `from` if nothing was announced. */
  to: number
  /** The channels of the messages in the interval: a hash of the name (see channelHash), and the last position. */
  channels: readonly (readonly [hash: number, position: number])[]
}

/** Who receives what a node sends: all nodes, one, or those that have joined a channel. A node receives its own, too. */
export type Audience = 'all' | { node: string } | { channel: string }

/** The functions that a bus calls. None is called twice for one message, or after `close`. */
export interface BusHandlers {
  /** A message of a channel that this node has joined. Those of one sequencer arrive in the order in which it announced them. */
  announced: (announcement: Announcement) => void
  beat: (beat: Beat) => void
  /** A text that a node has sent. Texts of one node to one audience arrive in order. */
  received: (text: string) => void
  /** The connection is lost: `up` is false now, and messages may be missed. */
  interrupted: (error: Error) => void
  /** The connection is back: `up` is true, and all joined channels are subscribed again. */
  restored: () => void
}

/**
 * What carries messages between nodes. It keeps nothing: positions, stored messages, retention, and the election of the
 * sequencer are in the database. What it loses is noticed and read from there (lib/channels, lib/durable).
 */
export interface Bus {
  readonly name: 'notify' | 'nats'
  /**
   * Whether rounds of the sequencer are handed to `announce`. Otherwise the database announces each round itself, in the
   * transaction that gives the positions.
   */
  readonly announces: boolean
  /** Whether this node is connected, so that it hears and is heard. */
  readonly up: boolean
  /**
   * Connects. Called once, before anything else.
   * @throws an error that trying again does not help, which names the option to change. After any other error it goes on
   *   trying.
   */
  start(handlers: BusHandlers): Promise<void>
  /**
   * Announcements of a channel arrive from now on. Called once for each channel, until `leave`.
   * @returns a promise that resolves once what is announced after that arrives; while the connection is lost: at once
   */
  join(channel: string): Promise<void>
  leave(channel: string): void
  /**
   * Announces messages, and then the beat.
   * @returns a promise that resolves once the bus has taken all of them: only then they count as announced
   */
  announce(batch: readonly Announcement[], beat?: Beat): Promise<void>
  /**
   * Sends texts of up to 8,000 bytes to nodes, in order.
   * @returns a promise that resolves when they are sent; whether they arrive is not known
   */
  send(to: Audience, texts: readonly string[]): Promise<void>
  /** To be called when the epoch of the database may have changed, because each epoch has a bus of its own. */
  refresh(): Promise<void>
  close(): Promise<void>
}

/** A hash of a channel's name for beats: FNV-1a of its UTF-8 bytes, 32 bits (http://www.isthe.com/chongo/tech/comp/fnv/). */
export function channelHash(channel: string): number {
  let hash = 0x811c9dc5
  for (const byte of Buffer.from(channel)) hash = Math.imul(hash ^ byte, 0x01000193)
  return hash >>> 0
}
