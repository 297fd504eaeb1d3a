import { errors } from '../errors.js'

/** How many sockets may be open at once, in all and from one address. */
export interface ConnectionLimits {
  maxConnections: number | undefined
  maxConnectionsPerIp: number | undefined
}

/** Counts the sockets that are open or about to be. */
export class ConnectionLimit {
  readonly #limits: ConnectionLimits
  readonly #byAddress = new Map<string, number>()
  #count = 0

  constructor(limits: ConnectionLimits) {
    this.#limits = limits
  }

  /**
   * Lets one more in.
   * @returns to be called once when it is gone; undefined where nothing is limited
   * @throws TooManyConnections (503), TooManyConnectionsFromAddress (429)
   */
  admit(address: string): (() => void) | undefined {
    const { maxConnections, maxConnectionsPerIp } = this.#limits
    if (maxConnections === undefined && maxConnectionsPerIp === undefined) return undefined
    if (maxConnections !== undefined && this.#count >= maxConnections) throw new errors.TooManyConnections()
    const here = this.#byAddress.get(address) ?? 0
    if (maxConnectionsPerIp !== undefined && here >= maxConnectionsPerIp) {
      throw new errors.TooManyConnectionsFromAddress()
    }
    this.#count++
    this.#byAddress.set(address, here + 1)
    return () => {
      this.#count--
      const left = this.#byAddress.get(address)! - 1
      if (left === 0) this.#byAddress.delete(address)
      else this.#byAddress.set(address, left)
    }
  }
}
