import { createPublicKey, type JsonWebKey, type KeyObject } from 'node:crypto'
import { errors } from '../errors.js'
import { isObject } from '../json-value.js'
import { mistakenSecret } from './mistaken-secret.js'

/** A key that verifies tokens. */
export interface VerificationKey {
  /** The `kid` of the key in its set (RFC 7517, section 4.5). */
  kid: string | undefined
  /** The algorithms (RFC 7518, section 3.1; RFC 8037) that belong to this type of key. */
  algorithms: string[]
  /** The secret of HMAC algorithms. For all others, `publicKey` is set instead. */
  secret: Buffer | undefined
  publicKey: string | undefined
}

const HMAC = ['HS256', 'HS384', 'HS512']
const RSA = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512']
const EC = new Map([
  ['P-256', ['ES256']],
  ['P-384', ['ES384']],
  ['P-521', ['ES512']]
])
const EDDSA = ['EdDSA']

const PRIVATE =
  'contains a private key: set the public key (openssl pkey -pubout), which is enough to verify tokens, and keep the private key where they are signed'

/**
 * Parses the value of `jwtSecret` (`PGWS_JWT_SECRET`): a JWK set, a JWK, a public key in PEM, or an HMAC secret. A text
 * that looks like a broken key, or like the name of a key's file, is refused and not used as a secret.
 * @param text the value; `@file` is already resolved
 * @param base64 whether the text is base64 (`jwtSecretBase64`); the URL-safe alphabet is accepted, with `.` for `=`, as
 *   postgres-websockets does
 * @throws InvalidOption if it is none of these; the message never contains the secret
 */
export function parseKeys(text: string, base64 = false): VerificationKey[] {
  return of('jwtSecret', 'PGWS_JWT_SECRET', () => keysIn(text, base64))
}

function keysIn(text: string, base64: boolean): VerificationKey[] {
  const bytes = base64 ? decodeBase64(text) : Buffer.from(text, 'utf8')
  if (bytes.length === 0) throw new KeyProblem('must not be empty')
  const decoded = bytes.toString('utf8')
  const jwk = parseObject(decoded)
  if (jwk !== undefined && 'keys' in jwk) return keysOf(jwk.keys)
  if (jwk !== undefined && 'kty' in jwk) {
    const key = keyOfJwk(jwk)
    if (key === undefined) throw new KeyProblem('is a JWK of a type that is not supported')
    return [key]
  }
  // If the text of a public key were used as a secret, anyone who knows the public key could sign tokens.
  if (decoded.includes('-----BEGIN ')) return [keyOfPem(decoded)]
  const mistake = mistakenSecret(bytes)
  if (mistake !== undefined) throw new KeyProblem(mistake)
  return [{ kid: undefined, algorithms: HMAC, secret: bytes, publicKey: undefined }]
}

/**
 * The keys that may verify a token, according to its header.
 * @param keys all keys
 * @param header the token's header; its `kid` selects a key, and without `kid` all keys for its `alg` are tried
 */
export function keysFor<Key extends VerificationKey>(
  keys: readonly Key[],
  header: { alg?: unknown; kid?: unknown }
): Key[] {
  const fitting = keys.filter((key) => key.algorithms.some((algorithm) => algorithm === header.alg))
  if (header.kid === undefined) return fitting
  const named = fitting.filter((key) => key.kid === header.kid)
  return named.length > 0 ? named : fitting.filter((key) => key.kid === undefined)
}

function decodeBase64(text: string): Buffer {
  const standard = text.trim().replaceAll('-', '+').replaceAll('_', '/').replaceAll('.', '=')
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(standard)) {
    throw new KeyProblem('is not base64, although jwtSecretBase64 (PGWS_JWT_SECRET_BASE64) is true')
  }
  return Buffer.from(standard, 'base64')
}

function parseObject(text: string): Record<string, unknown> | undefined {
  if (!text.trimStart().startsWith('{')) return undefined
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/**
 * The keys of a JWK set that was fetched from `jwksUrl`.
 * @param members its `keys`
 * @throws InvalidOption if none of them can verify signatures
 */
export function keysOfSet(members: unknown): VerificationKey[] {
  return of('jwksUrl', 'PGWS_JWKS_URL', () => keysOf(members))
}

function keysOf(members: unknown): VerificationKey[] {
  if (!Array.isArray(members)) throw new KeyProblem('is a JWK set whose "keys" is not a list')
  // RFC 7517, section 5: keys of an unknown type are ignored.
  const keys = members.map(keyOfJwk).filter((key) => key !== undefined)
  if (keys.length === 0) throw new KeyProblem('is a JWK set with no key that can verify signatures')
  return keys
}

function keyOfJwk(jwk: unknown): VerificationKey | undefined {
  if (!isObject(jwk)) throw new KeyProblem('contains a JWK that is not an object')
  const { kty, kid, alg, use, crv, k, d } = jwk
  if (use !== undefined && use !== 'sig') return undefined
  const allowed = algorithmsOf(kty, crv)
  if (allowed === undefined) return undefined
  const algorithms = alg === undefined ? allowed : allowed.filter((name) => name === alg)
  if (algorithms.length === 0) return undefined
  const key = { kid: typeof kid === 'string' ? kid : undefined, algorithms }
  if (kty === 'oct') {
    if (typeof k !== 'string' || k === '') throw new KeyProblem('contains a JWK of type "oct" without "k"')
    return { ...key, secret: Buffer.from(k, 'base64url'), publicKey: undefined }
  }
  // RFC 7518, sections 6.2.2 and 6.3.2; RFC 8037, section 2.
  if (d !== undefined) throw new KeyProblem(PRIVATE)
  // Node.js checks the members of the JWK.
  return { ...key, secret: undefined, publicKey: toPem(publicKey({ key: jwk as JsonWebKey, format: 'jwk' })) }
}

function algorithmsOf(kty: unknown, crv: unknown): string[] | undefined {
  if (kty === 'oct') return HMAC
  if (kty === 'RSA') return RSA
  if (kty === 'EC') return EC.get(String(crv))
  if (kty === 'OKP' && (crv === 'Ed25519' || crv === 'Ed448')) return EDDSA
  return undefined
}

function keyOfPem(pem: string): VerificationKey {
  if (/-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY/.test(pem)) throw new KeyProblem(PRIVATE)
  const key = publicKey(pem)
  const { crv, kty } = key.export({ format: 'jwk' })
  const algorithms = algorithmsOf(kty, crv)
  if (algorithms === undefined) throw new KeyProblem('is a PEM key of a type that is not supported')
  return { kid: undefined, algorithms, secret: undefined, publicKey: toPem(key) }
}

function publicKey(input: Parameters<typeof createPublicKey>[0]): KeyObject {
  try {
    return createPublicKey(input)
  } catch {
    // The error's message may contain parts of the key.
    throw new KeyProblem(
      'contains a key that cannot be read: it must be a JWK set, a JWK, a key in PEM, or the secret itself'
    )
  }
}

function toPem(key: KeyObject): string {
  return key.export({ type: 'spki', format: 'pem' }).toString()
}

/** What is wrong with a key, as the end of a sentence that begins with the name of its option. */
class KeyProblem extends Error {}

/** @throws InvalidOption for a KeyProblem */
function of<Result>(option: string, variable: string, read: () => Result): Result {
  try {
    return read()
  } catch (error) {
    if (!(error instanceof KeyProblem)) throw error
    throw new errors.InvalidOption(option, `(${variable}) ${error.message}`)
  }
}
