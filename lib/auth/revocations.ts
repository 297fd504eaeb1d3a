import type { Claims } from './claims.js'

/** A revocation, as it is stored. Either `jti` or `sub` is set. */
export interface Revocation {
  id: string
  /** The claim `jti` of the revoked token. */
  jti: string | null
  /** The claim `sub` of the revoked tokens. */
  sub: string | null
  /**
   * Tokens of `sub` that were issued before this time are revoked. In milliseconds since the epoch; null: whenever they were
   * issued.
   */
  issuedBefore: number | null
}

/** What must be known of a token to say whether it is revoked. */
export interface TokenIdentity {
  /** The claim `jti`. */
  readonly tokenId?: string | undefined
  /** The claim `sub`. */
  readonly subject?: string | undefined
  /** The claim `iat`, in milliseconds since the epoch. */
  readonly issuedAt?: number | undefined
}

/** What identifies a token, in its verified claims. */
export function identityOf({ jti, sub, iat }: Claims): TokenIdentity {
  return {
    tokenId: typeof jti === 'string' ? jti : undefined,
    subject: typeof sub === 'string' ? sub : undefined,
    issuedAt: typeof iat === 'number' ? iat * 1000 : undefined
  }
}

/** The revoked tokens, as far as this server knows. It is asked at each handshake, so it is a lookup in memory. */
export class Revocations {
  #byId = new Map<string, Revocation>()
  readonly #tokens = new Map<string, Revocation>()
  readonly #subjects = new Map<string, Revocation>()

  get size(): number {
    return this.#byId.size
  }

  /**
   * Whether a token is revoked. One of a revoked subject without a claim `iat` is: it cannot prove that it was issued later.
   */
  includes({ tokenId, subject, issuedAt }: TokenIdentity): boolean {
    if (this.#byId.size === 0) return false
    if (tokenId !== undefined && this.#tokens.has(tokenId)) return true
    if (subject === undefined) return false
    const revocation = this.#subjects.get(subject)
    if (revocation === undefined) return false
    return revocation.issuedBefore === null || issuedAt === undefined || issuedAt < revocation.issuedBefore
  }

  /** Adds a revocation, or replaces it. */
  add(revocation: Revocation): void {
    const { id, jti, sub } = revocation
    this.delete(id)
    this.#byId.set(id, revocation)
    if (jti !== null) this.#tokens.set(jti, revocation)
    if (sub !== null) this.#subjects.set(sub, revocation)
  }

  /** Withdraws a revocation. */
  delete(id: string): void {
    const revocation = this.#byId.get(id)
    if (revocation === undefined) return
    const { jti, sub } = revocation
    this.#byId.delete(id)
    // Another one may have taken its place.
    if (jti !== null && this.#tokens.get(jti) === revocation) this.#tokens.delete(jti)
    if (sub !== null && this.#subjects.get(sub) === revocation) this.#subjects.delete(sub)
  }

  /** Replaces all revocations. */
  replace(revocations: readonly Revocation[]): void {
    this.#byId = new Map()
    this.#tokens.clear()
    this.#subjects.clear()
    for (const revocation of revocations) this.add(revocation)
  }
}
