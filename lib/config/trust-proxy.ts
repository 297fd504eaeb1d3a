import { isIP, isIPv4 } from 'node:net'

/** Names that Fastify's `trustProxy` accepts in addition to addresses. */
const NETWORKS = ['loopback', 'linklocal', 'uniquelocal']

/**
 * Reads `PGWS_TRUST_PROXY`.
 * @param text `true`, `false`, or addresses, networks (10.0.0.0/8) and names of networks (loopback) with commas
 * @returns the value of Fastify's `trustProxy`; undefined if the text is none of these
 */
export function readTrustProxy(text: string): boolean | string[] | undefined {
  const value = text.trim().toLowerCase()
  if (value === 'true' || value === 'false') return value === 'true'
  const proxies = value.split(',').map((proxy) => proxy.trim())
  return proxies.every(isNetwork) ? proxies : undefined
}

function isNetwork(text: string): boolean {
  if (NETWORKS.includes(text)) return true
  const [address = '', range, ...more] = text.split('/')
  const family = isIP(address)
  if (family === 0 || more.length > 0) return false
  if (range === undefined || (family === 4 && isIPv4(range))) return true
  return /^\d{1,3}$/.test(range) && Number(range) >= 1 && Number(range) <= (family === 4 ? 32 : 128)
}
