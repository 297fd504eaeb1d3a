import { setTimeout as sleep } from 'node:timers/promises'
import { asError, errors } from '../../errors.js'
import type { Member } from '../member.js'
import { type Patience, replayMissed } from './missed-packets.js'
import type { StateRecovery } from './state-recovery.js'

export interface OutageReplayOptions {
  /** Undefined where packets are not kept. */
  recovery: () => StateRecovery | undefined
  members: () => Iterable<Member>
  isMember: (member: Member) => boolean
  /** Whether the database does not take a namespace's name: then nothing was missed. */
  isRefused: (nsp: string) => boolean
  /** Asks where a namespace begins, and tells it. */
  begin: (member: Member) => Promise<void>
  closed: () => boolean
  /** How long packets wait at most until they are committed, in milliseconds. */
  maxDelay: number
  onError: (error: Error) => void
}

/** Delivers what was missed while the listener was away, where it is kept; otherwise says that something may be lost. */
export class OutageReplay {
  readonly #options: OutageReplayOptions
  #lostAt = 0

  constructor(options: OutageReplayOptions) {
    this.#options = options
  }

  /** The listener is lost. */
  lost(): void {
    this.#lostAt = performance.now()
  }

  /**
   * The listener is back.
   * @param gap for how long it was away, in milliseconds
   */
  async replay(gap: number): Promise<void> {
    const { recovery, members, isRefused, closed, onError } = this.#options
    const lostAt = this.#lostAt
    const patience: Patience = { until: undefined }
    let lost = recovery() === undefined
    for (const member of [...members()]) {
      if (isRefused(member.nsp)) continue
      try {
        if (await this.#replayMember(member, lostAt, gap, patience)) lost = true
      } catch (error) {
        lost = true
        onError(asError(error))
      }
      // Lost again meanwhile: the next replay goes on from where this one has ended.
      if (lostAt !== this.#lostAt || closed()) return
      member.inbox.release()
      if (lost) member.gap(gap)
    }
    if (lost) onError(new errors.SocketIoGap(gap))
  }

  /** @returns whether some of it is gone; @throws where it cannot be read */
  async #replayMember(member: Member, lostAt: number, gap: number, patience: Patience): Promise<boolean> {
    const { isMember, begin, maxDelay, onError } = this.#options
    const recovery = this.#options.recovery()
    if (recovery === undefined) return false
    if (member.position === undefined) {
      // What is behind it waits for that, though not for ever.
      await Promise.race([begin(member), sleep(maxDelay, undefined, { ref: false })])
      return false
    }
    return replayMissed({
      recovery,
      nsp: member.nsp,
      position: () => member.position!,
      maxAge: gap + maxDelay,
      inbox: member.inbox,
      patience,
      wanted: () => lostAt === this.#lostAt && isMember(member),
      onError
    })
  }
}
