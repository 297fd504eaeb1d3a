import { types } from 'node:util'

/**
 * The message of a thrown value. For an AggregateError without a message, these are the messages of its errors.
 */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') {
    return error.errors.map(messageOf).join('; ')
  }
  return error instanceof Error ? error.message : String(error)
}

/** The code of an error, such as Node.js's `ENOENT`; undefined if it has none. */
export function codeOf(error: unknown): string | undefined {
  return isAny(error) && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

/** The HTTP status code of an error; undefined if it has none. */
export function statusCodeOf(error: unknown): number | undefined {
  return isAny(error) && 'statusCode' in error && typeof error.statusCode === 'number'
    ? error.statusCode
    : undefined
}

/** The severity of an error from PostgreSQL (protocol-error-fields.html); undefined for any other error. */
export function severityOf(error: unknown): string | undefined {
  return isAny(error) && 'severity' in error && typeof error.severity === 'string'
    ? error.severity
    : undefined
}

/** The cause of an error; undefined if it has none. */
export function causeOf(error: unknown): unknown {
  return isAny(error) && 'cause' in error ? error.cause : undefined
}

/** Whether a thrown value is an object. Any value can be thrown. */
function isAny(error: unknown): error is object {
  return typeof error === 'object' && error !== null
}

/** A thrown value as an error. Its class is not enough to recognize one, because it may be of another realm (test runners). */
export function asError(error: unknown): Error {
  return error instanceof Error || types.isNativeError(error) ? error : new Error(messageOf(error))
}
