import { setTimeout as sleep } from 'node:timers/promises'

/** While there are many requests, the next query waits this long after the last one, so that they share it, in milliseconds. */
const GATHER = 25

/**
 * Runs one job at a time for all requests. Requests that arrive while it runs share the next job, so that no answer is
 * older than its request.
 */
export class SharedReads<Request> {
  readonly #run: (requests: Request[]) => Promise<Request[]>
  readonly #onIdle: () => void
  #waiting: Request[] = []
  #working = false

  /**
   * @param run answers requests; resolves with those that need another round
   * @param onIdle is called when there are no requests left
   */
  constructor(run: (requests: Request[]) => Promise<Request[]>, onIdle: () => void) {
    this.#run = run
    this.#onIdle = onIdle
  }

  ask(request: Request): void {
    this.#waiting.push(request)
    if (!this.#working) this.#work()
  }

  async #work(): Promise<void> {
    this.#working = true
    // All requests of this turn of the event loop share the first job.
    await new Promise((resolve) => setImmediate(resolve))
    while (this.#waiting.length > 0) {
      const requests = this.#waiting
      this.#waiting = []
      const [again] = await Promise.all([this.#run(requests), sleep(GATHER)])
      this.#waiting.push(...again)
    }
    this.#working = false
    this.#onIdle()
  }
}

interface Requester {
  resolve: (answer: unknown) => void
  reject: (error: unknown) => void
}

/** Shares the answers of jobs: concurrent requests with the same key get the same answer. */
export class SharedAnswers {
  readonly #jobs = new Map<string, SharedReads<Requester>>()

  /**
   * Returns the answer of a job.
   * @param key identifies the request
   * @param job finds the answer. Requests that arrive while it runs share the next run.
   */
  ask<Answer>(key: string, job: () => Promise<Answer>): Promise<Answer> {
    let shared = this.#jobs.get(key)
    if (shared === undefined) {
      shared = new SharedReads(
        async (requesters) => {
          await job().then(
            (answer) => {
              for (const { resolve } of requesters) resolve(answer)
            },
            (error) => {
              for (const { reject } of requesters) reject(error)
            }
          )
          return []
        },
        () => this.#jobs.delete(key)
      )
      this.#jobs.set(key, shared)
    }
    // A key always has the same kind of answer, which the map cannot express.
    return new Promise((resolve, reject) => shared.ask({ resolve: resolve as Requester['resolve'], reject }))
  }
}
