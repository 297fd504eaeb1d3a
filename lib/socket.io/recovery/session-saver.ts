import { setTimeout as sleep } from 'node:timers/promises'
import { asError, errors } from '../../errors.js'
import type { SavedSession, StateRecovery } from './state-recovery.js'

/** The maximum number of sessions in one statement. */
const MAX_BATCH = 500

/** How long a failed statement is repeated, and how often, in milliseconds. */
const TIMEOUT = 10_000
const INTERVAL = 200

export interface SessionSaverOptions {
  recovery: StateRecovery
  /** Resolves when everything published so far has been accepted by the database, or has failed. */
  settled: () => Promise<void>
  /** Whether the node has closed. Then a failed statement is not repeated. */
  closed: () => boolean
  onError: (error: Error) => void
}

/** Saves sessions, each after everything that was published before it. */
export class SessionSaver {
  readonly #options: SessionSaverOptions
  #sessions: SavedSession[] = []
  #saving: Promise<void> | undefined

  constructor(options: SessionSaverOptions) {
    this.#options = options
  }

  /** Resolves when nothing waits to be saved. */
  async idle(): Promise<void> {
    await this.#saving
  }

  save(session: SavedSession): void {
    this.#sessions.push(session)
    this.#saving ??= this.#save()
  }

  async #save(): Promise<void> {
    const { recovery, settled, closed, onError } = this.#options
    while (this.#sessions.length > 0) {
      await settled()
      const batch = this.#sessions.splice(0, MAX_BATCH)
      const deadline = performance.now() + TIMEOUT
      for (;;) {
        try {
          await recovery.save(batch)
          break
        } catch (error) {
          if (closed()) return
          if (error instanceof errors.NotAccepted || performance.now() > deadline) {
            onError(asError(error))
            break
          }
          await sleep(INTERVAL)
        }
      }
    }
    this.#saving = undefined
  }
}
