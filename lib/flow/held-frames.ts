import type { Frame } from '../channels/index.js'

/**
 * Holds new frames for a client while older messages are replayed to it.
 *
 * `release` takes the position up to which durable messages were replayed, and returns the held frames except these.
 * Some of the replayed messages may arrive live only after that, so `fresh` filters them until the first newer one.
 */
export class HeldFrames {
  readonly #maxBytes: number
  #frames: Frame[] = []
  #bytes = 0
  /** Whether durable frames were dropped because there were too many. They must be read again. */
  #dropped = false
  #holding = true
  /** Durable messages up to this position were replayed, and may still arrive live. */
  #replayedTo: number | undefined

  /** @param maxBytes how many bytes may wait */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Drops durable frames, both held and new ones, until `keep` is called. The replay must continue then. */
  skip(): void {
    if (!this.#dropped) this.#drop()
  }

  /** Holds durable frames again. To be called before the replay reads the page with the dropped messages. */
  keep(): void {
    this.#dropped = false
  }

  /** Whether new frames go to `add`. Later they go to `fresh`. */
  get holding(): boolean {
    return this.#holding
  }

  /** Whether there is nothing left to filter, so that this object is no longer needed. */
  get done(): boolean {
    return !this.#holding && this.#replayedTo === undefined
  }

  /**
   * Holds frames. If there are too many, durable ones are dropped, because they can be read again.
   * @returns false if all were dropped, because there were too many that cannot be read again
   */
  add(frames: readonly Frame[]): boolean {
    for (const frame of frames) {
      if (this.#dropped && frame.position !== undefined) continue
      this.#frames.push(frame)
      this.#bytes += frame.bytes.length
    }
    if (this.#bytes <= this.#maxBytes) return true
    this.#drop()
    if (this.#bytes <= this.#maxBytes) return true
    this.#frames = []
    this.#bytes = 0
    return false
  }

  #drop(): void {
    this.#dropped = true
    this.#frames = this.#frames.filter(({ position }) => position === undefined)
    this.#bytes = this.#frames.reduce((sum, frame) => sum + frame.bytes.length, 0)
  }

  /**
   * Stops holding.
   * @param position the position up to which durable messages were replayed; undefined if there are none
   * @returns the frames to send; undefined if some were dropped: it continues to hold then, and the replay must continue
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
   * Filters frames that were replayed. Positions grow, so the first new one ends the filter.
   * @returns the same array once nothing is filtered any more
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
