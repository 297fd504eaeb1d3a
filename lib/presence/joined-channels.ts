import { withResolvers } from '../with-resolvers.js'

interface Joined {
  count: number
  /** Whether answers of other nodes are awaited. */
  settling: boolean
  ready: Promise<void>
  settle: () => void
}

export interface JoinedChannelsOptions {
  /** Is called for the first client of a channel, and after the last one. @returns whether answers are awaited */
  onFirst: (channel: string) => boolean
  onLast: (channel: string) => void
}

/** The presence channels that clients of this node have joined. */
export class JoinedChannels {
  readonly #options: JoinedChannelsOptions
  readonly #joined = new Map<string, Joined>()

  constructor(options: JoinedChannelsOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#joined.size
  }

  has(channel: string): boolean {
    return this.#joined.has(channel)
  }

  /** Whether the members of other nodes in a channel may be on their way. */
  isSettling(channel: string): boolean {
    return this.#joined.get(channel)?.settling === true
  }

  /** Resolves when they have had time to arrive. Undefined: no client has joined the channel. */
  ready(channel: string): Promise<void> | undefined {
    return this.#joined.get(channel)?.ready
  }

  /** Joins a channel once more. @returns what `ready` does */
  acquire(channel: string): Promise<void> {
    let joined = this.#joined.get(channel)
    if (joined === undefined) {
      const { promise, resolve } = withResolvers<void>()
      const opened: Joined = {
        count: 0,
        settling: true,
        ready: promise,
        settle() {
          opened.settling = false
          resolve()
        }
      }
      joined = opened
      this.#joined.set(channel, opened)
      if (!this.#options.onFirst(channel)) opened.settle()
    }
    joined.count++
    return joined.ready
  }

  /** Undoes one `acquire`. */
  release(channel: string): void {
    const joined = this.#joined.get(channel)!
    if (--joined.count > 0) return
    this.#joined.delete(channel)
    joined.settle()
    this.#options.onLast(channel)
  }

  /** Makes a function that ends the wait for answers in some channels, unless they are joined anew meanwhile. */
  settler(channels: readonly string[]): () => void {
    const waiting = channels.map((channel) => this.#joined.get(channel))
    return () => {
      for (const joined of waiting) joined?.settle()
    }
  }
}
