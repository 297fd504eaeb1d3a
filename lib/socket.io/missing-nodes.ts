import { setTimeout as sleep } from 'node:timers/promises'
import type { Member } from './member.js'

/** How long other nodes are waited for, once the database is back, before it is published again; and how often they are called. */
const REUNION_TIMEOUT = 5000
const REUNION_INTERVAL = 200

export interface CallOptions {
  /** The namespaces in which they are called. */
  members: () => Iterable<Member>
  /** How long they are waited for at most, in milliseconds. */
  timeout: number
  /** Whether an answer would be heard. */
  listening: () => boolean
}

/** Nodes that were there before the listener was lost, and were not heard since. */
export class MissingNodes {
  readonly #missing = new Set<string>()
  #until = 0

  /** Whether they are still waited for. */
  get awaited(): boolean {
    return this.#missing.size > 0 && performance.now() < this.#until
  }

  /** The listener is lost: those that were known are missing. */
  expect(members: Iterable<Member>): void {
    for (const { nsp, peers } of members) {
      for (const uid of peers()) this.#missing.add(nodeKey(nsp, uid))
    }
  }

  /** A message of another node has come. */
  heard(nsp: string, uid: string): void {
    if (this.#missing.size > 0) this.#missing.delete(nodeKey(nsp, uid))
  }

  /** Calls the other nodes until each has answered: each may need some time to listen again. */
  async call({ members, timeout, listening }: CallOptions): Promise<void> {
    this.#until = performance.now() + Math.min(REUNION_TIMEOUT, timeout)
    do {
      for (const member of members()) member.hello()
      await sleep(REUNION_INTERVAL, undefined, { ref: false })
    } while (this.awaited && listening())
    if (listening()) this.#missing.clear()
  }
}

function nodeKey(nsp: string, uid: string): string {
  return `${uid}\n${nsp}`
}
