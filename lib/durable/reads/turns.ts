/** A job that waits for its turn. */
type Waiting = () => void

/**
 * Limits how many jobs run at a time. Waiting owners take turns with one job each, so that an owner of many jobs does not
 * delay the others.
 */
export class Turns {
  readonly #atOnce: number
  #running = 0
  /** In the order of the turns. An owner that had its turn goes to the end. */
  readonly #waiting = new Map<string, Waiting[]>()

  /** @param atOnce how many jobs run at a time */
  constructor(atOnce: number) {
    this.#atOnce = atOnce
  }

  /**
   * Runs a job when it is its turn.
   * @param who the owner of the job
   * @returns the result of the job; rejects if the job does
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
    const jobs = this.#waiting.get(who)
    if (jobs === undefined) this.#waiting.set(who, [resolve])
    else jobs.push(resolve)
  }

  /** Gives the place of a finished job to the next one. */
  #next(): void {
    const [first] = this.#waiting
    if (first === undefined) {
      this.#running--
      return
    }
    const [who, jobs] = first
    const resolve = jobs.shift()!
    this.#waiting.delete(who)
    if (jobs.length > 0) this.#waiting.set(who, jobs)
    resolve()
  }
}
