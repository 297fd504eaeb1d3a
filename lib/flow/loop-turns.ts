/**
 * Whose turn it is to work on: one of those who wait in each turn of the event loop, in the order in which they came.
 * However many have much to do, whatever else comes is served in between.
 */
export class LoopTurns {
  readonly #waiting: (() => void)[] = []

  /** Resolves in a later turn, which is nobody else's. */
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
