/** A pause that can be ended from elsewhere. */
export class Pause {
  /** Ends the current pause. */
  #resume: (() => void) | undefined
  /** Whether `end` was called after the last pause. */
  #ended = false

  /** Ends the current pause, or the next one. */
  end(): void {
    this.#ended = true
    this.#resume?.()
  }

  /** Resolves after some time, or when `end` is called, or at once if it was called after the last pause. */
  async take(milliseconds: number): Promise<void> {
    if (!this.#ended) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, milliseconds).unref()
        this.#resume = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      this.#resume = undefined
    }
    this.#ended = false
  }
}
