import type { PresenceMember } from '../../../messages/index.js'
import { isSameMember, type Presence } from '../../../presence/index.js'

/** The minimum time between two changes of a client in a channel, in milliseconds. */
const SETTLING = 1000

/** A client that joined or left a channel less than SETTLING ago. */
interface Recent {
  channel: string
  client: string
  /** The current member; undefined if the client is not a member. */
  known: PresenceMember | undefined
  /** The same after the next change. */
  wanted: PresenceMember | undefined
  /** When the next change may be made (`performance.now()`). */
  due: number
}

/**
 * Limits each client to one join or leave per second in each channel, because every change is sent to all members on all
 * nodes. The first change is made at once. Of changes that follow too soon, only the result is made.
 */
export class Settling {
  readonly #presence: Pick<Presence, 'join' | 'leave'>
  /** In the order in which they are due, because all of them wait for the same time. */
  readonly #recent = new Map<string, Recent>()
  #timer: NodeJS.Timeout | undefined

  constructor(presence: Pick<Presence, 'join' | 'leave'>) {
    this.#presence = presence
  }

  /** Adds a client to a channel, at once, or when enough time has passed after its last change. */
  join(channel: string, member: PresenceMember): void {
    this.#change(channel, member.client, member)
  }

  /** @param gone whether the client cannot return, so that there is nothing to wait for */
  leave(channel: string, client: string, gone: boolean): void {
    if (!gone) {
      this.#change(channel, client, undefined)
      return
    }
    this.#recent.delete(keyOf(channel, client))
    this.#presence.leave(channel, client)
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#recent.clear()
  }

  #change(channel: string, client: string, wanted: PresenceMember | undefined): void {
    const recent = this.#recent.get(keyOf(channel, client))
    if (recent !== undefined) {
      recent.wanted = wanted
      return
    }
    this.#make({ channel, client, known: undefined, wanted, due: 0 })
    this.#schedule()
  }

  #make(recent: Recent): void {
    const { channel, client, known, wanted } = recent
    // It left, or returned with another user or info.
    if (known !== undefined || wanted === undefined) this.#presence.leave(channel, client)
    if (wanted !== undefined) this.#presence.join(channel, wanted)
    recent.known = wanted
    recent.due = performance.now() + SETTLING
    this.#recent.set(keyOf(channel, client), recent)
  }

  #schedule(): void {
    const [first] = this.#recent.values()
    if (first === undefined) return
    this.#timer ??= setTimeout(() => this.#settle(), Math.max(0, first.due - performance.now())).unref()
  }

  #settle(): void {
    this.#timer = undefined
    const now = performance.now()
    for (const [key, recent] of this.#recent) {
      if (recent.due > now) break
      this.#recent.delete(key)
      if (!isSame(recent.known, recent.wanted)) this.#make(recent)
    }
    this.#schedule()
  }
}

function keyOf(channel: string, client: string): string {
  return `${client} ${channel}`
}

function isSame(one: PresenceMember | undefined, other: PresenceMember | undefined): boolean {
  return one === undefined || other === undefined ? one === other : isSameMember(one, other)
}
