import { type AddressInfo, isIPv6, type ListenOptions } from 'node:net'
import { codeOf, messageOf } from '../errors.js'

/**
 * What `PGWS_HOST` means, in Warp's words (HostPreference): `*` and `*4` any address, IPv4 first; `*6` any
 * address, IPv6 first; `!4` IPv4 only; `!6` IPv6 only; all others are a host name or an address.
 * @returns the addresses to try, in order. The next one is tried if the system does not support the address family.
 */
export function listenTargets(host: string): Pick<ListenOptions, 'host' | 'ipv6Only'>[] {
  const ipv4 = { host: '0.0.0.0' }
  // Dual-stack: IPv4 clients arrive here, too.
  const any = { host: '::', ipv6Only: false }
  switch (host) {
    case '*':
    case '*4':
      return [ipv4, any]
    case '*6':
      return [any, ipv4]
    case '!4':
      return [ipv4]
    case '!6':
      return [{ host: '::', ipv6Only: true }]
    default:
      return [{ host }]
  }
}

/**
 * The error of a port that could not be opened, with the variable to change.
 * @param error as Node.js has thrown it
 */
export function listenError(error: unknown, host: string, port: number): Error {
  const code = codeOf(error)
  switch (code) {
    case 'EADDRINUSE':
      return new Error(
        `PGWS_PORT: port ${port} is already in use by another program: set PGWS_PORT to a free one`
      )
    case 'EACCES':
      return new Error(`PGWS_PORT: this user may not listen on port ${port}: set PGWS_PORT to one above 1023`)
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
    case 'EADDRNOTAVAIL':
    case 'EAFNOSUPPORT':
      return new Error(`PGWS_HOST: "${host}" is not an address of this machine (${code})`)
    default:
      return new Error(`PGWS_HOST and PGWS_PORT: ${messageOf(error)}`, { cause: error })
  }
}

/**
 * Host and port of a URL that leads to this server, and to no other on the same machine: one may listen on another
 * address with the same port.
 * @param addresses the addresses on which the server listens
 * @param localhost the addresses of the name `localhost`. The name is used if the server listens on all of them.
 */
export function originHost(
  addresses: readonly AddressInfo[],
  localhost: readonly { address: string }[]
): string {
  const { address, port } = addresses[0]!
  const listening = addresses.filter((other) => other.port === port).map((other) => other.address)
  if (localhost.length > 0 && localhost.every((one) => listening.includes(one.address))) {
    return `localhost:${port}`
  }
  const reachable = address === '0.0.0.0' ? '127.0.0.1' : address === '::' ? '::1' : address
  return isIPv6(reachable) ? `[${reachable}]:${port}` : `${reachable}:${port}`
}
