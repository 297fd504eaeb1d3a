import type { EventLog } from '../events/index.js'

/** Adds an event when the number of revoked tokens has changed, but none for those of the start. */
export class RevocationEvents {
  readonly #events: EventLog
  /** How many were revoked at the last call; undefined before the first one. */
  #size: number | undefined

  constructor(events: EventLog) {
    this.#events = events
  }

  /** To be called when revocations were read from the database. @param size how many there are now */
  read(size: number): void {
    const before = this.#size ?? size
    this.#size = size
    const count = Math.abs(size - before)
    if (count === 0) return
    const revocations = `${count} ${count === 1 ? 'revocation' : 'revocations'} of tokens`
    const more = size > before
    this.#events.add('revocation', {
      text: more ? `read ${revocations}` : `${revocations} withdrawn or expired`,
      reason: more ? 'revoked' : 'withdrawn',
      count
    })
  }
}
