import type { PresenceMember } from '../../../messages/index.js'
import { isSameMember, type Presence } from '../../../presence/index.js'

/** How long a client that has joined or left a channel stays what it is, in milliseconds. */
const SETTLING = 1000

/** A client that has joined or left a channel a moment ago. */
interface Recent {
  channel: string
  client: string
  /** What presence has of it; undefined: it is not there. */
  known: PresenceMember | undefined
  /** The same, as it is to be. */
  wanted: PresenceMember | undefined
  /** When that is to be, as `performance.now()` has it. */
  due: number
}

/**
 * Has one client join or leave one channel once a second at most: each time all others in it are told, on all nodes.
 * The first change is made at once; of those that come too soon, only what they come to.
 */
export class Settling {
  readonly #presence: Pick<Presence, 'join' | 'leave'>
  /** Because all of them wait for the same time, their order is that in which they are due. */
  readonly #recent = new Map<string, Recent>()
  #timer: NodeJS.Timeout | undefined

  constructor(presence: Pick<Presence, 'join' | 'leave'>) {
    this.#presence = presence
  }

  join(channel: string, member: PresenceMember): void {
    this.#change(channel, member.client, member)
  }

  /** @param gone it cannot come back: there is nothing to wait for */
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
    // It has come back as somebody else, or has only gone.
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
