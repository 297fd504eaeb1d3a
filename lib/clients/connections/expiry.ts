/**
 * Calls back when a member expires, with one timer for all members, which are grouped by the second in which they expire.
 * (A timer for each would cost memory, and `setTimeout` fires at once for more than 2^31-1 ms.)
 *
 * It compares with the system's clock each time, as the claim `exp` demands (RFC 7519, section 4.1.4), because the clock
 * may be set forward or back.
 */
export class Expiry<Member> {
  readonly #bySecond = new Map<number, Set<Member>>()
  readonly #expire: (member: Member) => void
  readonly #timer: NodeJS.Timeout
  /** No member expires before this second. */
  #earliest = Number.POSITIVE_INFINITY

  /** @param expire is called once for each member, within a second after it has expired */
  constructor(expire: (member: Member) => void) {
    this.#expire = expire
    this.#timer = setInterval(() => this.#check(), 500).unref()
  }

  /** @param time milliseconds since the epoch */
  add(member: Member, time: number): void {
    const second = Math.ceil(time / 1000)
    this.#earliest = Math.min(this.#earliest, second)
    const members = this.#bySecond.get(second)
    if (members === undefined) this.#bySecond.set(second, new Set([member]))
    else members.add(member)
  }

  /** Removes a member. Takes the arguments that `add` was called with. */
  delete(member: Member, time: number): void {
    const second = Math.ceil(time / 1000)
    const members = this.#bySecond.get(second)
    if (members?.delete(member) && members.size === 0) this.#bySecond.delete(second)
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#bySecond.clear()
  }

  #check(): void {
    const now = Math.floor(Date.now() / 1000)
    if (now < this.#earliest) return
    const due: number[] = []
    this.#earliest = Number.POSITIVE_INFINITY
    for (const second of this.#bySecond.keys()) {
      if (second <= now) due.push(second)
      else this.#earliest = Math.min(this.#earliest, second)
    }
    for (const second of due.sort((a, b) => a - b)) {
      const members = this.#bySecond.get(second)
      this.#bySecond.delete(second)
      for (const member of members ?? []) this.#expire(member)
    }
  }
}
