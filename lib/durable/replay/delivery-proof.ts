import type { IncomingQueue } from '../../channels/index.js'
import type { MessageStore } from '../message-store.js'
import type { RetentionRules } from '../retention-rules.js'

export interface DeliveryProofOptions {
  history: Pick<MessageStore, 'latest'>
  durable: Pick<RetentionRules, 'installed'>
  incoming: IncomingQueue
}

/**
 * Proves with the listener's probes up to which position everything has arrived: what the database has answered before a probe
 * is sent has arrived when the probe has.
 */
export class DeliveryProof {
  readonly #options: DeliveryProofOptions
  /** The last position that the database answered after the incoming queue was marked, for the next probe. */
  #latest: number | undefined
  #asking = false
  #interruptions = 0

  constructor(options: DeliveryProofOptions) {
    this.#options = options
  }

  /** To be called when notifications may be missing: what was asked and sent before proves nothing. */
  interrupted(): void {
    this.#interruptions++
    this.#latest = undefined
  }

  /**
   * To be called before the listener sends a probe.
   * @returns a function to call when the probe has arrived. All notifications of earlier commits have arrived by then.
   */
  probe(): () => void {
    const before = this.#interruptions
    const latest = this.#latest
    return () => {
      if (before !== this.#interruptions) return
      if (latest !== undefined && this.#options.incoming.prove(latest)) this.#latest = undefined
      // The answer is for the next probe, so that no probe waits for the pool.
      if (this.#latest === undefined && !this.#asking) this.#ask(before)
    }
  }

  /** Never rejects. After a failure, the next probe asks again. */
  async #ask(before: number): Promise<void> {
    const { history, durable, incoming } = this.#options
    if (!durable.installed) return
    this.#asking = true
    incoming.mark()
    try {
      const latest = await history.latest()
      if (before === this.#interruptions) this.#latest = latest
    } catch {
    } finally {
      this.#asking = false
    }
  }
}
