import { setTimeout as sleep } from 'node:timers/promises'
import { asError, errors } from '../../errors.js'
import type { NamespaceAdapter } from '../namespace-adapter.js'
import { type ReplayDeadline, replayMissed } from './missed-packets.js'
import type { StateRecovery } from './state-recovery.js'

export interface OutageReplayOptions {
  /** Undefined if packets are not kept. */
  recovery: () => StateRecovery | undefined
  adapters: () => Iterable<NamespaceAdapter>
  isCurrent: (adapter: NamespaceAdapter) => boolean
  /** Whether the database refuses to listen to a namespace. Then nothing was missed in it. */
  isRefused: (nsp: string) => boolean
  /** Finds out where a namespace begins. */
  begin: (adapter: NamespaceAdapter) => Promise<void>
  closed: () => boolean
  /** How long packets may wait until they are committed, in milliseconds. */
  maxDelay: number
  onError: (error: Error) => void
}

/** After an outage of the listener, delivers the missed packets if they are kept, or reports that packets may be lost. */
export class OutageReplay {
  readonly #options: OutageReplayOptions
  /** The namespaces of which it was not known where they begin when the listener was lost. */
  readonly #unknown = new Set<NamespaceAdapter>()
  #lostAt = 0

  constructor(options: OutageReplayOptions) {
    this.#options = options
  }

  /** To be called when the listener is lost. */
  lost(): void {
    this.#lostAt = performance.now()
    for (const adapter of this.#options.adapters()) {
      if (adapter.position === undefined) this.#unknown.add(adapter)
    }
  }

  /**
   * To be called when the listener is connected again.
   * @param gap how long it was disconnected, in milliseconds
   */
  async replay(gap: number): Promise<void> {
    const { adapters, isRefused, closed, onError } = this.#options
    const lostAt = this.#lostAt
    const deadline: ReplayDeadline = { at: undefined }
    let anyLost = false
    for (const adapter of [...adapters()]) {
      if (isRefused(adapter.nsp)) continue
      let lost: boolean
      try {
        lost = await this.#replayNamespace(adapter, lostAt, gap, deadline)
      } catch (error) {
        lost = true
        onError(asError(error))
      }
      // If the listener was lost again, the next replay continues where this one has ended.
      if (lostAt !== this.#lostAt || closed()) return
      adapter.inbox.release()
      if (this.#unknown.delete(adapter)) lost = true
      if (lost) adapter.gap(gap)
      anyLost ||= lost
    }
    this.#unknown.clear()
    if (anyLost) onError(new errors.SocketIoGap(gap))
  }

  /** @returns whether packets are lost; @throws if they cannot be read */
  async #replayNamespace(
    adapter: NamespaceAdapter,
    lostAt: number,
    gap: number,
    deadline: ReplayDeadline
  ): Promise<boolean> {
    const { isCurrent, begin, maxDelay, onError } = this.#options
    const recovery = this.#options.recovery()
    if (recovery === undefined) return true
    if (adapter.position === undefined) {
      // Newer packets wait until the beginning is known, but not forever.
      await Promise.race([begin(adapter), sleep(maxDelay, undefined, { ref: false })])
      return false
    }
    return replayMissed({
      recovery,
      nsp: adapter.nsp,
      position: () => adapter.position!,
      maxAge: gap + maxDelay,
      inbox: adapter.inbox,
      deadline,
      wanted: () => lostAt === this.#lostAt && isCurrent(adapter),
      onError
    })
  }
}
