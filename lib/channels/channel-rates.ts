import { setImmediate as nextTurn } from 'node:timers/promises'

/** How far samples are apart at least, in milliseconds. A rate is that of the last one to two of these intervals. */
const INTERVAL = 2000

/** For how long samples are kept, and used, after somebody has asked, in milliseconds. */
const KEPT = 60_000

/** A sample is taken in steps of so many channels, so that deliveries continue in between. */
const STEP = 2000

interface Sample {
  /** `performance.now()` */
  at: number
  counts: Map<string, number>
}

/** How many messages a second each channel delivers. Nothing is measured unless somebody has asked within a minute. */
export class ChannelRates {
  readonly #counts: () => Iterable<[channel: string, delivered: number]>
  #older: Sample | undefined
  #newer: Sample | undefined
  #sampling = false
  #forget: NodeJS.Timeout | undefined

  /** @param counts how many messages each channel has delivered so far */
  constructor(counts: () => Iterable<[channel: string, delivered: number]>) {
    this.#counts = counts
  }

  /** Is called before rates are read. Takes a sample for the next time. */
  ask(): void {
    clearTimeout(this.#forget)
    this.#forget = setTimeout(() => this.stop(), KEPT).unref()
    if (this.#sampling || (this.#newer !== undefined && performance.now() - this.#newer.at < INTERVAL)) return
    this.#sampling = true
    this.#sample()
  }

  /**
   * The rate of a channel.
   * @param delivered how many messages it has delivered so far
   * @returns messages a second; null: it is measured only now
   */
  of(channel: string, delivered: number): number | null {
    const now = performance.now()
    const since = [this.#older, this.#newer].find(
      (sample) => sample !== undefined && now - sample.at >= INTERVAL / 2
    )
    if (since === undefined) return null
    // A channel that was joined since then has delivered nothing before.
    const count = Math.max(0, delivered - (since.counts.get(channel) ?? 0))
    return Math.round((10_000 * count) / (now - since.at)) / 10
  }

  /** Forgets what was measured. */
  stop(): void {
    clearTimeout(this.#forget)
    this.#older = undefined
    this.#newer = undefined
  }

  async #sample(): Promise<void> {
    const sample: Sample = { at: performance.now(), counts: new Map() }
    let taken = 0
    for (const [channel, delivered] of this.#counts()) {
      sample.counts.set(channel, delivered)
      if (++taken % STEP === 0) await nextTurn()
    }
    this.#sampling = false
    this.#older = this.#newer
    this.#newer = sample
  }
}
