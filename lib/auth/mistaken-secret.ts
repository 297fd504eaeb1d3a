import { createPrivateKey, createPublicKey } from 'node:crypto'
import { existsSync } from 'node:fs'

/** The first and last lines of keys and certificates (RFC 7468, RFC 4716), even if a dash is missing. */
const PEM_LINE = /\b(BEGIN|END) [A-Z0-9 ]{0,40}(KEY|CERTIFICATE)\b|-----(BEGIN|END)\b/

/** A key of OpenSSH (RFC 4253, section 6.6, in base64), or of PuTTY. */
const SSH_KEY = /^(ssh-|ecdsa-sha2-|sk-ssh-|sk-ecdsa-)\S+\s+AAAA|^AAAA(B3N|C3N|E2V)|^PuTTY-User-Key-File/

/** What is not text: bytes that are not UTF-8, and control characters. */
const NO_TEXT = /\uFFFD|(?![\t\r\n])\p{Cc}/u

/** JSON, or a broken copy of it. */
const JSON_START = /^[[{]/
const JSON_MEMBER = /["']?\b(keys|kty|kid|crv|alg|use|key_ops|x5c|private_key)\b["']?\s*[:=]/

/** Object identifiers in DER: rsaEncryption, id-ecPublicKey, id-RSASSA-PSS, and Ed25519 and Ed448 with their SEQUENCE. */
const KEY_TYPES = [
  '06092a864886f70d010101',
  '06072a8648ce3d0201',
  '06092a864886f70d01010a',
  '300506032b6570',
  '300506032b6571'
].map((hex) => Buffer.from(hex, 'hex'))

/** The maximum offset of the type in a key: it follows lengths and a version. */
const KEY_TYPE_WITHIN = 64

/**
 * Detects an HMAC secret that is probably a broken key, or the name of a key's file. If the text of a public key were used
 * as a secret, anyone who knows the public key could sign tokens.
 * @returns the end of a sentence that begins with the name of the option, and never repeats the bytes; undefined if they
 *   may be a secret
 */
export function mistakenSecret(bytes: Buffer): string | undefined {
  const text = asText(bytes)
  if (/^https?:\/\//i.test(text)) return 'is a URL: set jwksUrl (PGWS_JWKS_URL) to fetch keys from a JWK set'
  if (namesFile(text)) return 'is the path of a file: write @ before the path, without quotes or spaces'
  const key = keyProblem(bytes, text)
  if (key !== undefined) return key
  const decoded = fromBase64(text)
  if (decoded !== undefined && keyProblem(decoded, asText(decoded)) !== undefined) {
    return 'is a key in base64: set jwtSecretBase64 (PGWS_JWT_SECRET_BASE64=true) if it is an encoded JWK or PEM; if it is the body of a PEM, add the lines -----BEGIN … and -----END …'
  }
  return undefined
}

function keyProblem(bytes: Buffer, text: string): string | undefined {
  if (isDer(bytes)) return 'is a key in DER: convert it to PEM (-----BEGIN PUBLIC KEY----- …)'
  if (PEM_LINE.test(text)) return 'is an incomplete key in PEM: a line -----BEGIN … or -----END … is missing'
  if (SSH_KEY.test(text)) return 'is an SSH key: convert it to PEM (ssh-keygen -e -m PKCS8)'
  // Random bytes may begin like JSON, and contain such a short word by chance.
  if (JSON_START.test(text) && !NO_TEXT.test(text)) {
    if (isObject(text)) return 'is JSON, but neither a JWK (with "kty") nor a JWK set (with "keys")'
    if (JSON_MEMBER.test(text)) return 'looks like a JWK, but is not valid JSON'
  }
  if (/^<(\w+:)?\w*KeyValue>/.test(text)) return 'is a key in XML: convert it to PEM'
  return undefined
}

/** The bytes as text, without what editors, shells and UTF-16 add. */
function asText(bytes: Buffer): string {
  return bytes
    .toString('utf8')
    .replace(/^[\uFEFF\uFFFD]+/, '')
    .replaceAll('\0', '')
    .trim()
    .replace(/^["']/, '')
    .replace(/["']$/, '')
    .trim()
}

/** Whether a text is the path of a file without `@`, or with a quote or a space before `@`. */
function namesFile(text: string): boolean {
  const path = text.replace(/^@/, '').replace(/^file:\/\//, '')
  const looksLikePath = text !== path || /^\.{0,2}\//.test(path)
  return looksLikePath && path.length < 4096 && existsSync(path)
}

function isObject(text: string): boolean {
  try {
    return typeof JSON.parse(text) === 'object'
  } catch {
    return false
  }
}

function fromBase64(text: string): Buffer | undefined {
  const compact = text.replace(/\s/g, '')
  return compact.length >= 16 && /^[A-Za-z0-9+/_-]+[=.]*$/.test(compact)
    ? Buffer.from(compact, 'base64')
    : undefined
}

function isDer(bytes: Buffer): boolean {
  // Every key and certificate is a SEQUENCE (X.690, section 8.9).
  if (bytes[0] !== 0x30) return false
  const start = bytes.subarray(0, KEY_TYPE_WITHIN)
  if (KEY_TYPES.some((type) => start.includes(type))) return true
  return (
    canBeRead(() => createPublicKey({ key: bytes, format: 'der', type: 'pkcs1' })) ||
    canBeRead(() => createPrivateKey({ key: bytes, format: 'der', type: 'pkcs1' })) ||
    canBeRead(() => createPrivateKey({ key: bytes, format: 'der', type: 'sec1' }))
  )
}

function canBeRead(read: () => unknown): boolean {
  try {
    read()
    return true
  } catch {
    return false
  }
}
