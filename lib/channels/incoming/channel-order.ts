import { type Announcement, type Beat, channelHash } from '../../bus/index.js'

/** How an announcement relates to what this node has heard. */
export type Place =
  /** Nothing is missing before it. */
  | 'next'
  /** It was heard before. */
  | 'known'
  /** Messages before it are missing. */
  | 'gap'

/**
 * Tracks which announcements of a bus have arrived. Each names the position of the channel's last message before it, and beats
 * say up to where was announced. So a node that hears only its own channels notices if something is missing.
 *
 * - Up to the floor, everything was heard or read from the database, whatever channel it is of.
 * - Only channels with messages beyond the floor are remembered.
 */
export class ChannelOrder {
  #floor = 0
  /** The last position of each channel that was heard, if it is beyond the floor. */
  readonly #heard = new Map<string, number>()
  /** The joined channels by the hash that beats name them by. */
  readonly #joined = new Map<number, Set<string>>()
  /** Channels that are being joined: nobody reads them yet, and it is not known which messages are older. */
  readonly #joining = new Set<string>()

  /** The last position in the database when a channel was joined. Readers get what is older by themselves, if they resume. */
  readonly #since = new Map<string, number>()

  /** The number of the last beat that was heard, or whose messages were read from the database. */
  #beat: number | undefined

  /** The position up to which nothing is missing. */
  get floor(): number {
    return this.#floor
  }

  /** Begins to join a channel. What arrives until `joined` is called is older than its readers. */
  join(channel: string): void {
    const hash = channelHash(channel)
    const sharing = this.#joined.get(hash)
    if (sharing === undefined) this.#joined.set(hash, new Set([channel]))
    else sharing.add(channel)
    this.#joining.add(channel)
  }

  /** @param position the last one in the database, read after announcements of the channel had begun to arrive */
  joined(channel: string, position: number): void {
    this.#joining.delete(channel)
    this.#since.set(channel, position)
    this.#note(channel, position)
  }

  leave(channel: string): void {
    const hash = channelHash(channel)
    const sharing = this.#joined.get(hash)
    sharing?.delete(channel)
    if (sharing?.size === 0) this.#joined.delete(hash)
    this.#joining.delete(channel)
    this.#since.delete(channel)
    this.#heard.delete(channel)
  }

  /** Whether a message has arrived, or cannot arrive because nobody here has joined its channel. */
  has(channel: string, position: number): boolean {
    if (position <= this.#heardOf(channel)) return true
    return this.#joined.get(channelHash(channel))?.has(channel) !== true
  }

  /** Whether a message is older than all readers of its channel here. */
  isOlder(channel: string, position: number): boolean {
    return position <= (this.#since.get(channel) ?? 0)
  }

  /** Compares an announcement with what was heard. */
  placeOf({ channel, position, previous, beat }: Omit<Announcement, 'text'>): Place {
    const heard = this.#heardOf(channel)
    if (position <= heard) return 'known'
    if (this.#joining.has(channel)) return 'next'
    // A beat is missing, and with it perhaps messages of other channels.
    if (beat !== this.#beat) return 'gap'
    return previous <= heard ? 'next' : 'gap'
  }

  /** Notes that a message was delivered. */
  arrived(channel: string, position: number): void {
    this.#note(channel, position)
  }

  /** Notes that everything before an announcement has been read from the database. */
  covered({ beat }: Pick<Announcement, 'beat'>): void {
    this.#beat = beat
  }

  /**
   * Takes a beat, once everything that came before it has been delivered.
   * @returns false if something is missing up to it
   */
  beat({ number, from, to, channels }: Beat): boolean {
    if (to <= this.#floor) {
      this.#beat = number
      return true
    }
    if (from > this.#floor) return false
    for (const [hash, position] of channels) {
      for (const channel of this.#joined.get(hash) ?? []) {
        if (position > this.#heardOf(channel) && !this.#joining.has(channel)) return false
      }
    }
    this.restart(to)
    this.#beat = number
    return true
  }

  /** To be called when the positions of the database begin anew: those at which channels were joined mean nothing then. */
  forget(): void {
    this.#since.clear()
  }

  /** Notes that everything up to a position has been read from the database. */
  restart(position: number): void {
    if (position <= this.#floor) return
    this.#floor = position
    for (const [channel, heard] of this.#heard) if (heard <= position) this.#heard.delete(channel)
  }

  #heardOf(channel: string): number {
    return Math.max(this.#heard.get(channel) ?? 0, this.#floor)
  }

  #note(channel: string, position: number): void {
    if (position > this.#heardOf(channel)) this.#heard.set(channel, position)
  }
}
