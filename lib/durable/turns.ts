/** A job that waits for its turn. */
type Waiting = () => void

/**
 * Lets a few jobs run at a time. Those who wait take turns: one job of each, so that nobody who asks for much holds up
 * those who ask for little.
 */
export class Turns {
  readonly #atOnce: number
  #running = 0
  /** In the order of the turns: whoever has had one goes to the end. */
  readonly #waiting = new Map<string, Waiting[]>()

  /** @param atOnce how many jobs run at a time */
  constructor(atOnce: number) {
    this.#atOnce = atOnce
  }

  /**
   * Runs a job when it is its turn.
   * @param who whose job it is
   * @returns what the job returns; rejects as it does
   */
  async take<Result>(who: string, job: () => Promise<Result>): Promise<Result> {
    if (this.#running < this.#atOnce) this.#running++
    else await new Promise<void>((resolve) => this.#wait(who, resolve))
    try {
      return await job()
    } finally {
      this.#next()
    }
  }

  #wait(who: string, resolve: Waiting): void {
    const theirs = this.#waiting.get(who)
    if (theirs === undefined) this.#waiting.set(who, [resolve])
    else theirs.push(resolve)
  }

  /** Hands the place of a job that has ended to the next. */
  #next(): void {
    const [first] = this.#waiting
    if (first === undefined) {
      this.#running--
      return
    }
    const [who, theirs] = first
    const resolve = theirs.shift()!
    this.#waiting.delete(who)
    if (theirs.length > 0) this.#waiting.set(who, theirs)
    resolve()
  }
}
