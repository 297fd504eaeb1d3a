import { textCache } from '../../text-cache.js'

/** A `User-Agent` is cut to this many characters, because a client may send a header of many kilobytes. */
const MAX_USER_AGENT = 200

/** A client, as its request describes it. */
export interface Remote {
  /** The client's IP address. */
  address: string
  /** The header `User-Agent`. */
  userAgent: string | undefined
}

/** The user agents of connections. Thousands of clients send the same few, so connections share the text. */
export class UserAgents {
  readonly #shared = textCache<string>()

  /** The user agent to store with a connection. */
  shared(userAgent: string | undefined): string | undefined {
    if (userAgent === undefined) return undefined
    // A copy: what `slice` returns would keep the whole header in memory.
    const own =
      userAgent.length > MAX_USER_AGENT
        ? Buffer.from(userAgent.slice(0, MAX_USER_AGENT)).toString()
        : userAgent
    const known = this.#shared.get(own)
    if (known === undefined) this.#shared.set(own, own)
    return known ?? own
  }
}
