import { types } from 'node:util'

/**
 * The message of whatever was thrown.
 * @param error anything; of an AggregateError without a message, the messages of its errors
 */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') {
    return error.errors.map(messageOf).join('; ')
  }
  return error instanceof Error ? error.message : String(error)
}

/** The code of an error, such as Node.js's `ENOENT`; undefined where it has none. */
export function codeOf(error: unknown): string | undefined {
  return isAny(error) && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

/** The severity of what PostgreSQL has answered (protocol-error-fields.html); undefined for any other error. */
export function severityOf(error: unknown): string | undefined {
  return isAny(error) && 'severity' in error && typeof error.severity === 'string'
    ? error.severity
    : undefined
}

/** The cause of an error; undefined where it has none. */
export function causeOf(error: unknown): unknown {
  return isAny(error) && 'cause' in error ? error.cause : undefined
}

/** Not only errors can be thrown. */
function isAny(error: unknown): error is object {
  return typeof error === 'object' && error !== null
}

/** What was thrown, as an error. Not by its class alone: it may be of another realm, as in a test runner. */
export function asError(error: unknown): Error {
  return error instanceof Error || types.isNativeError(error) ? error : new Error(messageOf(error))
}
