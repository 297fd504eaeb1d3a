import type { Turns } from './turns.js'

/**
 * How long a job that is not full waits for more requests, for each key that the last job had, in milliseconds: from 200
 * keys a second on, jobs become fewer and larger.
 */
const WINDOW_PER_KEY = 5

/** How long it waits at least if some had the same key, and by how much more than the last one at most, in milliseconds. */
const SHORT_WINDOW = 25

/** Requests with the same key. One answer serves all of them. */
export interface Gathered<Request> {
  key: string
  requests: Request[]
}

export interface GatheringOptions<Request> {
  /** Who the jobs belong to when they take turns with others. */
  owner: string
  turns: Turns
  /** Answers requests. Must not reject. */
  run: (gathered: Gathered<Request>[]) => Promise<void>
  /** The size of a full job. A larger request has a job of its own. */
  fullSize: number
  /** The least and the most time between a job and the next one that is not full, in milliseconds. */
  window: readonly [min: number, max: number]
}

/**
 * Collects requests that come within a short moment, so that one job answers them. The first request after a pause is
 * answered at once. Later jobs begin when they are full, or else when the last one has ended and some time has passed. A
 * request that arrives while a job runs is part of a later one, so that no answer is older than its request.
 */
export class Gathering<Request> {
  readonly #options: GatheringOptions<Request>
  /** In the order in which they came. */
  readonly #waiting = new Map<string, { size: number; requests: Request[] }>()
  #waitingSize = 0
  /** The time between the last job and the next one. */
  #window = 0
  #lastBegun = Number.NEGATIVE_INFINITY
  /** Cancels the timer of the next job. */
  #cancel: (() => void) | undefined
  /** Whether a job waits for its turn. */
  #due = false
  /** Whether a job runs that is not full. */
  #runsPartial = false

  constructor(options: GatheringOptions<Request>) {
    this.#options = options
  }

  /**
   * Adds a request to the next job.
   * @param size how much work the requests with this key are
   */
  ask(key: string, size: number, request: Request): void {
    const same = this.#waiting.get(key)
    if (same === undefined) {
      this.#waiting.set(key, { size, requests: [request] })
      this.#waitingSize += size
    } else same.requests.push(request)
    this.#schedule()
  }

  #schedule(): void {
    if (this.#due || this.#waiting.size === 0) return
    if (this.#waitingSize >= this.#options.fullSize) {
      this.#cancel?.()
      this.#begin()
    } else if (!this.#runsPartial && this.#cancel === undefined) {
      const rest = this.#lastBegun + this.#window - performance.now()
      if (rest > 0) {
        const timer = setTimeout(() => this.#begin(), rest)
        this.#cancel = () => clearTimeout(timer)
      } else {
        // All requests of this turn of the event loop share the job.
        const immediate = setImmediate(() => this.#begin())
        this.#cancel = () => clearImmediate(immediate)
      }
    }
  }

  /** Never rejects, because `run` does not. */
  async #begin(): Promise<void> {
    this.#cancel = undefined
    this.#due = true
    let partial = false
    await this.#options.turns.take(this.#options.owner, () => {
      this.#due = false
      const { job, size } = this.#take()
      partial = this.#waiting.size === 0 && size < this.#options.fullSize
      if (partial) this.#runsPartial = true
      this.#schedule()
      return this.#options.run(job)
    })
    if (partial) this.#runsPartial = false
    this.#schedule()
  }

  #take(): { job: Gathered<Request>[]; size: number } {
    const { fullSize, window } = this.#options
    const job: Gathered<Request>[] = []
    let taken = 0
    let shared = false
    for (const [key, { size, requests }] of this.#waiting) {
      if (taken > 0 && taken + size > fullSize) break
      this.#waiting.delete(key)
      taken += size
      shared ||= requests.length > 1
      job.push({ key, requests })
    }
    this.#waitingSize -= taken
    const now = performance.now()
    const [min, max] = window
    const last = now - this.#lastBegun > 2 * max ? 0 : this.#window
    // It shrinks slowly, because a lull may not be the end of a storm, and grows slowly, because few storms are long.
    const wanted = Math.max(min, WINDOW_PER_KEY * job.length, shared ? SHORT_WINDOW : 0, last / 2)
    this.#window = Math.min(wanted, max, 2 * last + SHORT_WINDOW)
    this.#lastBegun = now
    return { job, size: taken }
  }
}
