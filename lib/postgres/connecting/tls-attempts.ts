import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { type ConnectionOptions, checkServerIdentity, type PeerCertificate } from 'node:tls'
import { codeOf } from '../../errors.js'

export const SSL_MODES = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full']

/**
 * The attempts for an `sslmode` (https://www.postgresql.org/docs/current/libpq-ssl.html, table "SSL Mode Descriptions"), in
 * order; `false` means without TLS.
 */
export function tlsAttempts(
  mode: string,
  parameters: ReadonlyMap<string, string>,
  host: string
): (ConnectionOptions | false)[] {
  if (mode === 'disable' || host.startsWith('/')) return [false]
  const read = (name: string) => {
    const file = parameters.get(name)
    if (file === undefined) return undefined
    try {
      return readFileSync(file, 'utf8')
    } catch (error) {
      throw new Error(`${name} names a file that cannot be read (${codeOf(error)})`)
    }
  }
  const cert = read('sslcert')
  const key = read('sslkey')
  const client = { ...(cert !== undefined && { cert }), ...(key !== undefined && { key }) }
  const unverified = { ...client, rejectUnauthorized: false }
  if (mode === 'allow') return [false, unverified]
  if (mode === 'prefer') return [unverified, false]

  const file = parameters.get('sslrootcert') ?? join(homedir(), '.postgresql', 'root.crt')
  const system = file === 'system'
  const known = parameters.has('sslrootcert') || existsSync(file)
  // With a root certificate, `require` means `verify-ca`, for compatibility (libpq-ssl.html).
  if (mode === 'require' && !known) return [unverified]
  if (!known)
    throw new Error(`sslmode "${mode}" needs a root certificate: set sslrootcert to its file, or to "system"`)
  if (system && mode !== 'verify-full') throw new Error('sslrootcert "system" needs sslmode "verify-full"')
  const roots = system ? {} : { ca: read('sslrootcert') ?? readFileSync(file, 'utf8') }
  // The name in the connection string, even if the connection goes to a `hostaddr`.
  const sameHost = (_: string, certificate: PeerCertificate) => checkServerIdentity(host, certificate)
  if (mode === 'verify-full') return [{ ...client, ...roots, checkServerIdentity: sameHost }]
  return [{ ...client, ...roots, checkServerIdentity: () => undefined }]
}
