/**
 * Gives turns to tasks: one task in each turn of the event loop, first come, first served. So other events are handled
 * in between, however many tasks there are.
 */
export class LoopTurns {
  readonly #waiting: (() => void)[] = []

  /** Resolves in a later turn of the event loop, in which no other task runs. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#waiting.push(resolve) === 1) setImmediate(() => this.#turn())
    })
  }

  #turn(): void {
    this.#waiting.shift()?.()
    if (this.#waiting.length > 0) setImmediate(() => this.#turn())
  }
}
