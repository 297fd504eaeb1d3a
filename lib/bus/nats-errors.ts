import { codeOf, errors, messageOf } from '../errors.js'

/** What a server says to credentials that it does not accept (nats-server, server/errors.go). */
const REFUSED = /authorization violation|authentication (expired|revoked)|authentication failed/i

/** What OpenSSL and Node.js say of a certificate that cannot be trusted. */
const UNTRUSTED = /^(?:CERT_|ERR_TLS_CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_)/

const NO_TLS = /does not support 'tls'|'tls' is not available/

const PERMISSION = /permissions violation for (publish|subscription) to "([^"]*)"/i

/** What an error is explained with. */
export interface Circumstances {
  /** `host:port`. */
  server: string
  hasCredentials: boolean
  prefix: string
}

/**
 * Says what an error of a connection means for the operator.
 * @returns InvalidOption, which names the variable, if trying again does not help; otherwise an error that names the server
 */
export function explain(error: unknown, { server, hasCredentials, prefix }: Circumstances): Error {
  if (error instanceof errors.InvalidOption) return error
  const message = messageOf(error)
  const [, operation, subject] = PERMISSION.exec(message) ?? []
  if (operation !== undefined) {
    const what = /publish/i.test(operation) ? 'publish to' : 'subscribe to'
    return new errors.InvalidOption(
      'busCredentials',
      `(PGWS_BUS_CREDENTIALS): the NATS server at ${server} does not allow this user to ${what} "${subject}": allow it to publish and subscribe to "${prefix}.>"`
    )
  }
  if (REFUSED.test(message)) {
    return new errors.InvalidOption(
      'busCredentials',
      hasCredentials
        ? `(PGWS_BUS_CREDENTIALS): the NATS server at ${server} does not accept them (${message})`
        : `(PGWS_BUS_CREDENTIALS) is required by the NATS server at ${server}: the credentials of a user, or @file`
    )
  }
  const code = codeOf(error) ?? ''
  if (UNTRUSTED.test(code)) {
    return new errors.InvalidOption(
      'busCa',
      `(PGWS_BUS_CA): the certificate of the NATS server at ${server} is not valid here (${code}): name the certificate authority that has signed it, or correct the host name in "bus" (PGWS_BUS)`
    )
  }
  if (NO_TLS.test(message)) {
    return new errors.InvalidOption(
      'bus',
      `(PGWS_BUS): the NATS server at ${server} does not offer TLS: configure "tls" there, or write nats:// instead of tls://`
    )
  }
  return new Error(`NATS server at ${server}: ${message === '' ? code || 'connection closed' : message}`, {
    cause: error
  })
}
