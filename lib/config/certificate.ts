import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { codeOf, messageOf } from '../errors.js'

/** What Node.js' TLS server takes. */
export interface Certificate {
  cert: Buffer
  key: Buffer
}

/**
 * Reads the server's certificate and its key, both in PEM.
 * @throws Error that names the variable, `PGWS_CERTIFICATE_FILE` or `PGWS_KEY_FILE`, whose file is missing or is
 *   something else; never with parts of the key
 */
export function readCertificate(certificateFile: string, keyFile: string): Certificate {
  const cert = readVariable('PGWS_CERTIFICATE_FILE', certificateFile)
  const key = readVariable('PGWS_KEY_FILE', keyFile)
  const certificate = asCertificate(cert)
  const privateKey = asPrivateKey(key)
  if (certificate === undefined) {
    throw new Error(
      asPrivateKey(cert) !== undefined && asCertificate(key) !== undefined
        ? 'PGWS_CERTIFICATE_FILE contains a private key, and PGWS_KEY_FILE a certificate: swap them'
        : 'PGWS_CERTIFICATE_FILE must contain a certificate in PEM (-----BEGIN CERTIFICATE-----)'
    )
  }
  if (privateKey === 'encrypted') {
    throw new Error('PGWS_KEY_FILE contains a key with a passphrase: store it without one')
  }
  if (privateKey === undefined) {
    throw new Error('PGWS_KEY_FILE must contain a private key in PEM (-----BEGIN PRIVATE KEY-----)')
  }
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new Error(
      'PGWS_KEY_FILE contains the key of another certificate than the one in PGWS_CERTIFICATE_FILE'
    )
  }
  return { cert, key }
}

function readVariable(variable: string, file: string): Buffer {
  try {
    return readFileSync(file)
  } catch (error) {
    const code = codeOf(error) ?? messageOf(error)
    throw new Error(`${variable} names a file that cannot be read (${code})`)
  }
}

function asCertificate(pem: Buffer): X509Certificate | undefined {
  try {
    return new X509Certificate(pem)
  } catch {
    return undefined
  }
}

function asPrivateKey(pem: Buffer): KeyObject | 'encrypted' | undefined {
  try {
    return createPrivateKey(pem)
  } catch {
    // RFC 1421 and RFC 5958 both say so in clear.
    return pem.includes('ENCRYPTED') ? 'encrypted' : undefined
  }
}
