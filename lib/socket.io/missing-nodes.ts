import { setTimeout as sleep } from 'node:timers/promises'
import type { NamespaceAdapter } from './namespace-adapter.js'

/** After an outage: how long publishing waits for the other nodes at most, and how often they are called, in milliseconds. */
const REUNION_TIMEOUT = 5000
const REUNION_INTERVAL = 200

export interface CallOptions {
  /** The namespaces in which they are called. */
  adapters: () => Iterable<NamespaceAdapter>
  /** How long to wait for them at most, in milliseconds. */
  timeout: number
  /** Whether this node would receive an answer. */
  listening: () => boolean
}

/** The nodes that were known before the listener was lost, and have not been heard of after that. */
export class MissingNodes {
  readonly #missing = new Set<string>()
  #until = 0

  /** Whether to wait for them still. */
  get awaited(): boolean {
    return this.#missing.size > 0 && performance.now() < this.#until
  }

  /** To be called when the listener is lost. All known nodes are missing until they are heard of. */
  expect(adapters: Iterable<NamespaceAdapter>): void {
    for (const { nsp, peers } of adapters) {
      for (const uid of peers()) this.#missing.add(nodeKey(nsp, uid))
    }
  }

  /** Notes that a message of another node has arrived. */
  heard(nsp: string, uid: string): void {
    if (this.#missing.size > 0) this.#missing.delete(nodeKey(nsp, uid))
  }

  /** Calls the other nodes until each has answered. They may need some time to listen again. */
  async call({ adapters, timeout, listening }: CallOptions): Promise<void> {
    this.#until = performance.now() + Math.min(REUNION_TIMEOUT, timeout)
    do {
      for (const adapter of adapters()) adapter.hello()
      await sleep(REUNION_INTERVAL, undefined, { ref: false })
    } while (this.awaited && listening())
    if (listening()) this.#missing.clear()
  }
}

function nodeKey(nsp: string, uid: string): string {
  return `${uid}\n${nsp}`
}
