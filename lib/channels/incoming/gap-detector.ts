import type { Announcement } from '../../messages/index.js'

/**
 * Notices that notifications of durable messages are missing, for whatever reason.
 *
 * - In the database, each transaction with durable messages first announces their positions and the position before them
 *   (`previous`), and then notifies the messages. So each message is either the next one that was announced, or an
 *   announcement or a message before it is missing.
 * - A gap is noticed before anything newer is delivered. `previous` is the last position of all channels, because a
 *   websocket that reads several channels continues from one id. So it must not get a newer message of any of them.
 * - Messages that are missing at the end are noticed by beats, which are announcements without messages. The sequencer sends
 *   one within a second after the last message. The listener's probe, before which the database is asked for its last
 *   position, is another.
 * - Any role can send any notification. So announcements are signed, and only they and the database raise the position. A
 *   forged message looks like a message after a gap. Then the database is asked (see Replay), and answers that nothing is
 *   missing.
 * - It stores one position and one announcement, regardless of the number of channels.
 */
export class GapDetector {
  #heard: number | undefined
  /** The announcement whose messages have not all arrived. */
  #expected: Announcement | undefined

  /** The position up to which everything was announced and has arrived; undefined while no gap can be noticed. */
  get heard(): number | undefined {
    return this.#heard
  }

  /** The position up to which everything was announced, although it may not have arrived; undefined as `heard`. */
  get announcedTo(): number | undefined {
    return this.#expected?.last ?? this.#heard
  }

  /** Starts at a position of the database; undefined: at the next announcement. */
  follow(position: number | undefined): void {
    this.#heard = position
    this.#expected = undefined
  }

  /** Takes an announcement. @returns false if something is missing before it */
  announced(announcement: Announcement): boolean {
    const { previous, first, last } = announcement
    this.#heard ??= previous
    if (last <= this.#heard) return true
    if (this.#expected !== undefined || previous > this.#heard) return false
    if (first > last) this.#heard = last
    else this.#expected = announcement
    return true
  }

  /** Takes the position of a message. @returns false if something is missing before it, or if it was not announced */
  arrived(position: number): boolean {
    if (this.#heard === undefined || position <= this.#heard) return true
    if (this.#expected === undefined || position !== this.#next(this.#expected)) return false
    this.#heard = position
    if (this.#next(this.#expected) > this.#expected.last) {
      this.#heard = this.#expected.last
      this.#expected = undefined
    }
    return true
  }

  #next({ first, missing }: Announcement): number {
    let next = Math.max(first, this.#heard! + 1)
    while (missing.has(next)) next++
    return next
  }
}
