import { createHmac } from 'node:crypto'
import type { Claims } from './claims.js'
import type { VerificationKey } from './keys.js'

/** A key that can sign tokens, because it is a shared secret. */
export type SigningKey = VerificationKey & { secret: Buffer }

/** The first key that can sign tokens; undefined if all of them are public keys. */
export function signingKeyOf(keys: readonly VerificationKey[]): SigningKey | undefined {
  return keys.find((key): key is SigningKey => key.secret !== undefined)
}

/** Signs a token (RFC 7519) with HMAC (RFC 7518, section 3.2). */
export function signToken(claims: Claims, { algorithms: [alg], secret }: SigningKey): string {
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${encode({ alg, typ: 'JWT' })}.${encode(claims)}`
  return `${input}.${createHmac(`sha${alg!.slice(2)}`, secret)
    .update(input)
    .digest('base64url')}`
}
