import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  randomBytes,
  timingSafeEqual
} from 'node:crypto'

const CIPHER = 'aes-256-gcm'
const IV_BYTES = 12
const TAG_BYTES = 16
/** A session is a secret, and what shows whose it is. */
const SECRET_BYTES = 16
const PROOF_BYTES = 8

/** What nodes know a session by among themselves. */
export interface SessionKeys {
  /** Its name: the session itself cannot be made from it. */
  id: string
  /** For its commands. */
  key: Buffer
}

/** What a node makes its sessions with, and what it tells others of, so that they know one from a made-up one. */
export function newSessionsKey(): string {
  return randomBytes(16).toString('base64url')
}

/**
 * A new session: a secret of 128 random bits, which only its client and its node know, and a proof of 64 bits.
 * @param key its node's
 */
export function newSession(key: string): string {
  const secret = randomBytes(SECRET_BYTES)
  return Buffer.concat([secret, proofOf(key, secret)]).toString('base64url')
}

/** Whether a session is one that the node with this key has made. It may have ended. */
export function isSessionOf(key: string, session: string): boolean {
  const bytes = Buffer.from(session, 'base64url')
  if (bytes.length !== SECRET_BYTES + PROOF_BYTES) return false
  return timingSafeEqual(proofOf(key, bytes.subarray(0, SECRET_BYTES)), bytes.subarray(SECRET_BYTES))
}

function proofOf(key: string, secret: Buffer): Buffer {
  return createHmac('sha256', key).update(secret).digest().subarray(0, PROOF_BYTES)
}

export function keysOf(session: string): SessionKeys {
  return {
    id: createHash('sha256').update(session).digest('base64url'),
    key: createHmac('sha256', session).update('commands').digest()
  }
}

/**
 * Encrypts commands for the node that has the session: whoever has SQL may listen to what nodes say to each other, and
 * speak there, too. Neither can be done without the session.
 * @param place what else must be the same for whoever opens it
 * @returns base64
 */
export function seal(key: Buffer, text: string, place: string): string {
  const iv = randomBytes(IV_BYTES)
  const cipher = createCipheriv(CIPHER, key, iv, { authTagLength: TAG_BYTES })
  cipher.setAAD(Buffer.from(place))
  const encrypted = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()])
  return Buffer.concat([iv, cipher.getAuthTag(), encrypted]).toString('base64')
}

/** @returns undefined for what was not sealed with this key, for this place */
export function unseal(key: Buffer, sealed: string, place: string): string | undefined {
  const bytes = Buffer.from(sealed, 'base64')
  if (bytes.length < IV_BYTES + TAG_BYTES) return undefined
  const decipher = createDecipheriv(CIPHER, key, bytes.subarray(0, IV_BYTES), { authTagLength: TAG_BYTES })
  decipher.setAAD(Buffer.from(place))
  decipher.setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES))
  try {
    const text = Buffer.concat([decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES)), decipher.final()])
    return text.toString('utf8')
  } catch {
    return undefined
  }
}
