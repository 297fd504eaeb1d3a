import { createHmac } from 'node:crypto'
import type { Claims } from './claims.js'
import type { VerificationKey } from './keys.js'

/** A key that we may sign with, because it is a secret which we share with whoever verifies. */
export type SigningKey = VerificationKey & { secret: Buffer }

/** The first of some keys that we may sign with; undefined where all of them are public. */
export function signingKeyOf(keys: readonly VerificationKey[]): SigningKey | undefined {
  return keys.find((key): key is SigningKey => key.secret !== undefined)
}

/** A token (RFC 7519) of some claims, signed with HMAC (RFC 7518, section 3.2). */
export function signToken(claims: Claims, { algorithms: [alg], secret }: SigningKey): string {
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${encode({ alg, typ: 'JWT' })}.${encode(claims)}`
  return `${input}.${createHmac(`sha${alg!.slice(2)}`, secret)
    .update(input)
    .digest('base64url')}`
}
