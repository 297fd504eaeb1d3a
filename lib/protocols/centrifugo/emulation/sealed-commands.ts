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
/** The sizes of a session's two parts: the secret, and the proof of which node made it. */
const SECRET_BYTES = 16
const PROOF_BYTES = 8

/** What is derived from a session for the communication between nodes. */
export interface SessionKeys {
  /** The name of the session, from which the session cannot be computed. */
  id: string
  /** The key that encrypts its commands. */
  key: Buffer
}

/** Makes the key with which a node proves its sessions. Other nodes get it, so that they can recognize made-up sessions. */
export function newSessionsKey(): string {
  return randomBytes(16).toString('base64url')
}

/**
 * Makes a session: a secret of 128 random bits, which only its client and its node know, and a proof of 64 bits.
 * @param key the key of its node
 */
export function newSession(key: string): string {
  const secret = randomBytes(SECRET_BYTES)
  return Buffer.concat([secret, proofOf(key, secret)]).toString('base64url')
}

/** Whether the node with this key made a session. The session may have ended. */
export function isSessionOf(key: string, session: string): boolean {
  const bytes = Buffer.from(session, 'base64url')
  if (bytes.length !== SECRET_BYTES + PROOF_BYTES) return false
  return timingSafeEqual(proofOf(key, bytes.subarray(0, SECRET_BYTES)), bytes.subarray(SECRET_BYTES))
}

function proofOf(key: string, secret: Buffer): Buffer {
  return createHmac('sha256', key).update(secret).digest().subarray(0, PROOF_BYTES)
}

/** Derives the name and the key of a session. */
export function sessionKeysOf(session: string): SessionKeys {
  return {
    id: createHash('sha256').update(session).digest('base64url'),
    key: createHmac('sha256', session).update('commands').digest()
  }
}

/**
 * Encrypts commands for the node that has the session. Any role that may connect to the database can listen to the nodes
 * and send messages to them, but without the session it can neither read nor forge commands.
 * @param place additional data that must be the same for decryption
 * @returns base64
 */
export function seal(key: Buffer, commands: Buffer, place: string): string {
  const iv = randomBytes(IV_BYTES)
  const cipher = createCipheriv(CIPHER, key, iv, { authTagLength: TAG_BYTES })
  cipher.setAAD(Buffer.from(place))
  const encrypted = Buffer.concat([cipher.update(commands), cipher.final()])
  return Buffer.concat([iv, cipher.getAuthTag(), encrypted]).toString('base64')
}

/** @returns the decrypted commands; undefined if they were not encrypted with this key and place */
export function unseal(key: Buffer, sealed: string, place: string): Buffer | undefined {
  const bytes = Buffer.from(sealed, 'base64')
  if (bytes.length < IV_BYTES + TAG_BYTES) return undefined
  const decipher = createDecipheriv(CIPHER, key, bytes.subarray(0, IV_BYTES), { authTagLength: TAG_BYTES })
  decipher.setAAD(Buffer.from(place))
  decipher.setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES))
  try {
    return Buffer.concat([decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES)), decipher.final()])
  } catch {
    return undefined
  }
}
