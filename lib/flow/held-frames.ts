import type { Frame } from '../channels/index.js'

/**
 * What comes for a client while it is caught up with older messages, and what of it the client still needs after that.
 *
 * At first it holds what comes. `release` is told up to where durable messages were replayed, and gives what was held
 * but for these; because some of them may come only then, `fresh` leaves them out until the first newer one comes.
 */
export class HeldFrames {
  readonly #maxBytes: number
  #frames: Frame[] = []
  #bytes = 0
  /** There were more durable ones than may wait: they must be read again. */
  #dropped = false
  #holding = true
  /** Durable messages up to this position were replayed, and may still come once more. */
  #replayedTo: number | undefined

  /** @param maxBytes how many bytes may wait */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Whether what comes is to be given to `add`; later it is to be given to `fresh`. */
  get holding(): boolean {
    return this.#holding
  }

  /** Whether there is nothing more to leave out: it is not needed any more. */
  get done(): boolean {
    return !this.#holding && this.#replayedTo === undefined
  }

  /**
   * Holds frames. Where they are too many, durable ones are dropped: they can be read again.
   * @returns false where all were dropped, because there were too many of those that cannot
   */
  add(frames: readonly Frame[]): boolean {
    for (const frame of frames) {
      if (this.#dropped && frame.position !== undefined) continue
      this.#frames.push(frame)
      this.#bytes += frame.bytes.length
    }
    if (this.#bytes <= this.#maxBytes) return true
    this.#dropped = true
    const passing = this.#frames.filter(({ position }) => position === undefined)
    const bytes = passing.reduce((sum, frame) => sum + frame.bytes.length, 0)
    const bearable = bytes <= this.#maxBytes
    this.#frames = bearable ? passing : []
    this.#bytes = bearable ? bytes : 0
    return bearable
  }

  /**
   * Ends the holding.
   * @param position up to which durable messages were replayed; undefined where there are none
   * @returns the frames that are still to be sent; undefined where some were dropped: then it goes on holding, and so
   *   has the replay to go on
   */
  release(position: number | undefined): readonly Frame[] | undefined {
    if (this.#dropped) {
      this.#dropped = false
      return undefined
    }
    const frames = this.#frames
    this.#frames = []
    this.#holding = false
    this.#replayedTo = position
    return this.fresh(frames)
  }

  /**
   * Leaves out what was replayed. Positions grow, so the first that is new ends the filter.
   * @returns the same array where nothing is left out any more
   */
  fresh(frames: readonly Frame[]): readonly Frame[] {
    const limit = this.#replayedTo
    if (limit === undefined) return frames
    return frames.filter(({ position }) => {
      if (position === undefined) return true
      if (position <= limit) return false
      this.#replayedTo = undefined
      return true
    })
  }
}
