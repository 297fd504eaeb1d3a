import type { Announcement } from '../messages/index.js'

/**
 * Notices that notifications of durable messages are missing, whatever has lost them on the way.
 *
 * - In the database, each transaction with durable messages first announces their positions, and the position before them
 *   (`previous`), then notifies the messages. So each message is either the next that was announced, or something is
 *   missing before it: an announcement, or a message.
 * - A gap is noticed before anything newer is delivered. Therefore `previous` is the last position of all channels: a
 *   websocket that reads several channels continues from one id, so it must not get a newer message of any of them.
 * - What is missing at the end is noticed by beats, which are announcements without messages. The sequencer sends one within
 *   a second of the last message. The listener's probe, for which the database is asked for its last position, is another.
 * - Any role can notify anything. So announcements are signed, and the position is raised by them and the database alone. A
 *   forged message looks like a message before which something is missing: the database is asked (see Replay), which says
 *   that there is nothing.
 * - It keeps one position and one announcement, whatever the number of channels.
 */
export class GapDetector {
  #heard: number | undefined
  /** The rest of what was announced and has not arrived. */
  #expected: Announcement | undefined

  /** Everything up to this position was announced, and has arrived; undefined while nothing can be noticed. */
  get heard(): number | undefined {
    return this.#heard
  }

  /** Starts from a position of the database; undefined: from the next announcement. */
  follow(position: number | undefined): void {
    this.#heard = position
    this.#expected = undefined
  }

  /** @returns false if something is missing before an announcement */
  announced(announcement: Announcement): boolean {
    const { previous, first, last } = announcement
    this.#heard ??= previous
    if (last <= this.#heard) return true
    if (this.#expected !== undefined || previous > this.#heard) return false
    if (first > last) this.#heard = last
    else this.#expected = announcement
    return true
  }

  /** @returns false if something is missing before a message, or if it was not announced */
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
