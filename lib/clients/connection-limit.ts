import { errors } from '../errors.js'

/** How many connections may be open at once, in total and from one IP address; undefined: any number. */
export interface ConnectionLimits {
  maxConnections: number | undefined
  maxConnectionsPerIp: number | undefined
}

/** Counts the connections that are open or being accepted. */
export class ConnectionLimit {
  readonly #limits: ConnectionLimits
  readonly #byAddress = new Map<string, number>()
  #count = 0

  constructor(limits: ConnectionLimits) {
    this.#limits = limits
  }

  /**
   * Counts one more connection.
   * @returns a function to call once when the connection has ended; undefined if there are no limits
   * @throws TooManyConnections (503), TooManyConnectionsFromAddress (429)
   */
  admit(address: string): (() => void) | undefined {
    const { maxConnections, maxConnectionsPerIp } = this.#limits
    if (maxConnections === undefined && maxConnectionsPerIp === undefined) return undefined
    if (maxConnections !== undefined && this.#count >= maxConnections) throw new errors.TooManyConnections()
    const open = this.#byAddress.get(address) ?? 0
    if (maxConnectionsPerIp !== undefined && open >= maxConnectionsPerIp) {
      throw new errors.TooManyConnectionsFromAddress()
    }
    this.#count++
    this.#byAddress.set(address, open + 1)
    return () => {
      this.#count--
      const left = this.#byAddress.get(address)! - 1
      if (left === 0) this.#byAddress.delete(address)
      else this.#byAddress.set(address, left)
    }
  }
}
