import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from 'node:crypto'

const CIPHER = 'aes-256-gcm'
const IV_BYTES = 12
const TAG_BYTES = 16

/** What nodes know a session by among themselves. */
export interface SessionKeys {
  /** Its name: the session itself cannot be made from it. */
  id: string
  /** For its commands. */
  key: Buffer
}

/** A new session: a secret of 192 random bits, which only its client and its node know. */
export function newSession(): string {
  return randomBytes(24).toString('base64url')
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
 * @returns base64
 */
export function seal(key: Buffer, text: string): string {
  const iv = randomBytes(IV_BYTES)
  const cipher = createCipheriv(CIPHER, key, iv, { authTagLength: TAG_BYTES })
  const encrypted = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()])
  return Buffer.concat([iv, cipher.getAuthTag(), encrypted]).toString('base64')
}

/** @returns undefined for what was not sealed with this key */
export function unseal(key: Buffer, sealed: string): string | undefined {
  const bytes = Buffer.from(sealed, 'base64')
  if (bytes.length < IV_BYTES + TAG_BYTES) return undefined
  const decipher = createDecipheriv(CIPHER, key, bytes.subarray(0, IV_BYTES), { authTagLength: TAG_BYTES })
  decipher.setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES))
  try {
    const text = Buffer.concat([decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES)), decipher.final()])
    return text.toString('utf8')
  } catch {
    return undefined
  }
}
