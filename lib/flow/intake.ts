import { LoopTurns } from './loop-turns.js'

/** How long items of one client are processed before others get a turn, in milliseconds. */
const SLICE = 2

/** When more than this many sources wait, the client is not read. */
const MAX_WAITING = 100

/** What all intakes of a server share: the rate at which each client may send, and their turns. */
export class Pace {
  /** Items per second, and the size of a burst. */
  readonly rate: number
  readonly turns = new LoopTurns()
  /** How many clients are not read because they send too fast. */
  throttled = 0

  /** @param rate how many messages, commands or pings a client may send in a second */
  constructor(rate: number) {
    this.rate = rate
  }
}

/** A client whose items are processed. */
export interface Source<Item> {
  /** Processes an item. It must not throw or reject. The next item waits for the promise that it returns. */
  take(item: Item): Promise<void> | void
  /** Stops reading the client, and reads it again. */
  pause(): void
  resume(): void
}

/**
 * The queue of what one client has sent. Items are processed in order, at most at the client's rate, and in time slices:
 * a packet may contain thousands of small messages, and all other clients would have to wait for the last of them.
 *
 * The rate is a token bucket that holds one second's worth. A client that exceeds it is not read, and loses nothing.
 */
export class Intake<Item> {
  readonly #pace: Pace
  readonly #sender: Source<Item>
  #sources: Iterator<Item>[] = []
  /** How many of the sources are exhausted. */
  #taken = 0
  #allowance: number
  #drawnAt = 0
  #working = false
  #paused = false
  #throttled = false
  /** Whether the rate is ignored, because the client has closed. */
  #unlimited = false
  /** Ends a wait for the rate. */
  #wake: (() => void) | undefined
  #onIdle: (() => void)[] = []

  constructor(pace: Pace, sender: Source<Item>) {
    this.#pace = pace
    this.#sender = sender
    this.#allowance = pace.rate
  }

  /** Whether items wait or are being processed. */
  get busy(): boolean {
    return this.#working
  }

  /**
   * Processes items, now or when it is their turn.
   * @param items an iterator, so that a long text need not be split into lines at once
   */
  receive(items: Iterator<Item>): void {
    this.#sources.push(items)
    if (!this.#working) this.#work(performance.now() + SLICE)
    else if (this.#sources.length - this.#taken > MAX_WAITING) this.#pause()
  }

  /** Processes one item, now or when it is its turn. */
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

  /** Processes what waits without regard to the rate, because no more will follow. Resolves when nothing waits. */
  finish(): Promise<void> {
    this.#unlimited = true
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

  /** Processes what waits. It creates no promise unless it has to wait, which is rare. */
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
   * Processes an item, now or later.
   * @param end the end of the time slice
   * @returns false if the following items must wait for this one: they are processed after it
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

  /** @returns how many milliseconds the client must wait with this item */
  #draw(now: number): number {
    const { rate } = this.#pace
    const earned = ((now - this.#drawnAt) / 1000) * rate
    this.#allowance = Math.min(rate, this.#allowance + earned) - 1
    this.#drawnAt = now
    return this.#unlimited || this.#allowance >= 0 ? 0 : (-this.#allowance / rate) * 1000
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
