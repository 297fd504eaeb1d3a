/**
 * Calls back when a member's time has come, with one timer for all of them: the members are kept by the
 * second in which they end. (One timer each would cost memory, and `setTimeout` fires at once for more than
 * 2^31-1 ms.)
 */
export class Expiry<Member> {
  readonly #bySecond = new Map<number, Set<Member>>()
  readonly #expire: (member: Member) => void
  readonly #timer: NodeJS.Timeout
  #checked = Math.floor(Date.now() / 1000)

  /** @param expire called once for each member, within a second after its time */
  constructor(expire: (member: Member) => void) {
    this.#expire = expire
    this.#timer = setInterval(() => this.#check(), 500).unref()
  }

  /** @param time milliseconds since the epoch */
  add(member: Member, time: number): void {
    const second = Math.max(Math.ceil(time / 1000), this.#checked + 1)
    const members = this.#bySecond.get(second)
    if (members === undefined) this.#bySecond.set(second, new Set([member]))
    else members.add(member)
  }

  /** Takes out what `add` put in, with the same arguments. */
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
    // A clock that was set forward by years must not mean a loop over every second of them.
    const due =
      now - this.#checked > this.#bySecond.size
        ? [...this.#bySecond.keys()].filter((second) => second <= now).sort((a, b) => a - b)
        : Array.from({ length: now - this.#checked }, (_, i) => this.#checked + 1 + i)
    this.#checked = Math.max(this.#checked, now)
    for (const second of due) {
      const members = this.#bySecond.get(second)
      this.#bySecond.delete(second)
      for (const member of members ?? []) this.#expire(member)
    }
  }
}
