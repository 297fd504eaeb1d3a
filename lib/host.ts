import type { ListenOptions } from 'node:net'

/**
 * What `PGWS_HOST` means, in Warp's words (HostPreference): `*` and `*4` any address, IPv4 first; `*6` any
 * address, IPv6 first; `!4` IPv4 only; `!6` IPv6 only; all others are a host name or an address.
 * @returns what to listen to, in the order to try: the next one where the address family is not there
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
