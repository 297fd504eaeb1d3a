import { parseKeys, RemoteKeySet, type VerificationKey } from '../../lib/auth/index.js'
import type { ResolvedOptions } from '../../lib/config/index.js'
import type { Report } from './report.js'

/** RFC 7518, section 3.2: a key of HS256 must have at least the size of the hash. In bytes. */
const SHORTEST_SECRET = 32

/** Checks the keys that verify tokens. */
export async function checkKeys(report: Report, options: ResolvedOptions): Promise<void> {
  const { jwtSecret, jwtSecretBase64, jwksUrl } = options
  if (jwtSecret !== undefined) {
    await report.attempt('keys', () => checkSecret(report, parseKeys(jwtSecret, jwtSecretBase64)))
  }
  if (jwksUrl !== undefined) await checkKeySet(report, jwksUrl)
}

function checkSecret(report: Report, keys: VerificationKey[]): void {
  const short = keys.some(({ secret }) => secret !== undefined && secret.length < SHORTEST_SECRET)
  if (short) {
    report.warning(
      'keys',
      `PGWS_JWT_SECRET has fewer than ${SHORTEST_SECRET} bytes: whoever has one token can guess it (RFC 7518, section 3.2). Make one with: openssl rand -hex 32`
    )
  } else report.ok('keys', `PGWS_JWT_SECRET: ${describe(keys)}`)
}

async function checkKeySet(report: Report, url: string): Promise<void> {
  let problem = 'it has no public key that can verify tokens (RFC 7517)'
  const noted = (_fields: object, text: string) => {
    problem = text
  }
  const nothing = () => {}
  const log = { warn: noted, error: noted, info: nothing, debug: nothing }
  const set = new RemoteKeySet({ url, log })
  await set.start()
  set.stop()
  // A query may hold a secret.
  const { origin, pathname } = new URL(url)
  if (set.keys.length > 0) report.ok('keys', `PGWS_JWKS_URL (${origin}${pathname}): ${describe(set.keys)}`)
  else {
    report.error(
      'keys',
      `PGWS_JWKS_URL (${origin}${pathname}): ${problem}. Open the address from this machine: it must answer with a JWK set`
    )
  }
}

function describe(keys: readonly VerificationKey[]): string {
  const algorithms = [...new Set(keys.flatMap((key) => key.algorithms))].join(', ')
  const kind = keys.every(({ secret }) => secret !== undefined) ? 'secret' : 'key'
  return `${keys.length} ${kind}${keys.length === 1 ? '' : 's'} (${algorithms})`
}
