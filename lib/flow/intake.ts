import { LoopTurns } from './loop-turns.js'

/** For how long what one client sends is taken in one go, in milliseconds. */
const SLICE = 2

/** When so much waits to be taken, its client is not read. */
const MAX_WAITING = 100

/** What all intakes of a server share: how fast each client may send, and whose turn it is. */
export class Pace {
  /** How many a second, and how many at once. */
  readonly rate: number
  readonly turns = new LoopTurns()
  /** How many clients are held up because they send too fast. */
  throttled = 0

  /** @param rate how many messages, commands or pings a client may send in a second */
  constructor(rate: number) {
    this.rate = rate
  }
}

/** Whose messages are taken. */
export interface Source<Item> {
  /** Takes one. It does not throw or reject; what it returns is waited for before the next one. */
  take(item: Item): Promise<void> | void
  /** Stops to read the client, and reads it again. */
  pause(): void
  resume(): void
}

/**
 * What one client has sent and nobody has taken yet. It is taken in order, no faster than the client may send, and in
 * slices: one packet holds thousands of small messages, and all others would wait for the last of them.
 *
 * The rate is a token bucket that holds a second's worth. A client that is ahead of it is not read, and loses nothing.
 */
export class Intake<Item> {
  readonly #pace: Pace
  readonly #sender: Source<Item>
  #sources: Iterator<Item>[] = []
  /** How many of the sources have been taken. */
  #taken = 0
  #allowance: number
  #drawnAt = 0
  #working = false
  #paused = false
  #throttled = false
  #hurried = false
  /** Ends a wait for the rate. */
  #wake: (() => void) | undefined
  #onIdle: (() => void)[] = []

  constructor(pace: Pace, sender: Source<Item>) {
    this.#pace = pace
    this.#sender = sender
    this.#allowance = pace.rate
  }

  /** Whether something waits, or is being taken. */
  get busy(): boolean {
    return this.#working
  }

  /**
   * Takes items, now or when it is their turn.
   * @param items read one by one, so that a long text need not be cut into lines at once
   */
  receive(items: Iterator<Item>): void {
    this.#sources.push(items)
    if (!this.#working) this.#work(performance.now() + SLICE)
    else if (this.#sources.length - this.#taken > MAX_WAITING) this.#pause()
  }

  /** Takes one item, now or when it is its turn. */
  receiveOne(item: Item): void {
    if (this.#working) {
      this.receive([item].values())
      return
    }
    this.#working = true
    const now = performance.now()
    const end = now + SLICE
    if (this.#take(item, now, end)) this.#work(end)
  }

  /** Takes what waits no longer at the client's pace: no more will come. Resolves when nothing waits. */
  finish(): Promise<void> {
    this.#hurried = true
    this.#wake?.()
    return new Promise((resolve) => {
      if (this.#working) this.#onIdle.push(resolve)
      else resolve()
    })
  }

  /** Drops what waits. */
  clear(): void {
    this.#sources = []
    this.#taken = 0
    this.#wake?.()
  }

  /** Takes what waits. No promise is made where nothing has to wait, which is most often. */
  #work(end: number): void {
    this.#working = true
    for (let next = this.#next(); next !== undefined; next = this.#next()) {
      if (!this.#take(next.value, performance.now(), end)) return
    }
    this.#working = false
    this.#setThrottled(false)
    if (this.#paused) {
      this.#paused = false
      this.#sender.resume()
    }
    if (this.#onIdle.length > 0) for (const resolve of this.#onIdle.splice(0)) resolve()
  }

  /**
   * Takes one, now or later.
   * @param end of the slice
   * @returns false where the others have to wait for it: then they are taken after it
   */
  #take(item: Item, now: number, end: number): boolean {
    const ahead = this.#draw(now)
    if (ahead > 0 || now > end) {
      this.#takeLater(item, ahead)
      return false
    }
    const taken = this.#sender.take(item)
    if (taken === undefined) return true
    taken.then(() => this.#work(end))
    return false
  }

  async #takeLater(item: Item, ahead: number): Promise<void> {
    this.#pause()
    if (ahead > 0) await this.#wait(ahead)
    await this.#pace.turns.next()
    const end = performance.now() + SLICE
    const taken = this.#sender.take(item)
    if (taken !== undefined) await taken
    this.#work(end)
  }

  #next(): { value: Item } | undefined {
    if (this.#sources.length === 0) return undefined
    while (this.#taken < this.#sources.length) {
      const { done, value } = this.#sources[this.#taken]!.next()
      if (!done) return { value }
      this.#taken++
    }
    this.#sources = []
    this.#taken = 0
    return undefined
  }

  /** @returns for how many milliseconds the client is ahead of its rate with this one */
  #draw(now: number): number {
    const { rate } = this.#pace
    const gained = ((now - this.#drawnAt) / 1000) * rate
    this.#allowance = Math.min(rate, this.#allowance + gained) - 1
    this.#drawnAt = now
    return this.#hurried || this.#allowance >= 0 ? 0 : (-this.#allowance / rate) * 1000
  }

  async #wait(milliseconds: number): Promise<void> {
    this.#setThrottled(true)
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, milliseconds)
      timer.unref()
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    this.#wake = undefined
  }

  #setThrottled(throttled: boolean): void {
    if (throttled === this.#throttled) return
    this.#throttled = throttled
    this.#pace.throttled += throttled ? 1 : -1
  }

  #pause(): void {
    if (this.#paused) return
    this.#paused = true
    this.#sender.pause()
  }
}
