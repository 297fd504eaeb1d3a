import pg from 'pg'
import { asError, codeOf, errors, severityOf } from '../errors.js'

/**
 * SQLSTATEs (errcodes-appendix.html) that mean that the server is unavailable: connection exceptions, too many
 * connections, operator intervention (shutdown, crash).
 */
const UNAVAILABLE = /^(?:08|57P|53300)/

/**
 * SQLSTATEs of temporary obstacles, after which the transaction was rolled back: conflicts of transactions (class 40), a
 * lock that was not available (55P03), a statement that was cancelled or timed out (57014), a read-only database (25006: a
 * standby, or default_transaction_read_only), a transaction that timed out (25P03, 25P04).
 */
const TEMPORARY = /^(?:40|55P03|57014|25006|25P0[34])/

/** Classes of errors in the data: 22 (data exceptions) and 54 (program limits). */
const ABOUT_THE_MESSAGE = /^(?:22|54)/

/**
 * Classifies the error of a statement: there was no answer, the server is unavailable, there is a temporary obstacle, or
 * the server refuses the statement. The error's class is not checked, because the user's `pg` may be another copy of the
 * package.
 */
export function failureOf(error: unknown): 'unanswered' | 'unavailable' | 'temporary' | 'refused' {
  // Errors from the server have both. Errors of sockets have only a code.
  const code = codeOf(error)
  if (severityOf(error) === undefined || code === undefined) return 'unanswered'
  if (UNAVAILABLE.test(code)) return 'unavailable'
  return TEMPORARY.test(code) ? 'temporary' : 'refused'
}

/**
 * The outcome of a failed statement. If the server answered with an error, it was rolled back. Without an answer, it may
 * have been committed.
 *
 * The text of the error may be sent to a client, so it says neither where the database is nor what role is used. Its cause
 * does.
 * @returns DatabaseUnavailable, NotAccepted or OutcomeUnknown
 */
export function outcomeOf(failure: unknown): Error {
  const cause = asError(failure)
  const kind = failureOf(cause)
  if (kind === 'unanswered') {
    return new errors.OutcomeUnknown('the connection broke, or the database did not answer in time', {
      cause
    })
  }
  if (kind !== 'refused') return unavailable(cause)
  const code = codeOf(cause) ?? ''
  const reason = ABOUT_THE_MESSAGE.test(code) ? cause.message : `it answered with SQLSTATE ${code}`
  return new errors.NotAccepted(reason, { cause })
}

/** The outcome if nothing could have been committed yet. */
export function unavailable(failure: unknown): Error {
  const cause = asError(failure)
  const reason =
    cause instanceof pg.DatabaseError ? `it answered with SQLSTATE ${cause.code}` : 'it cannot be reached'
  return new errors.DatabaseUnavailable(reason, { cause })
}

/** The outcome of a statement that calls SQL functions, which may have caused the error themselves. */
export function functionOutcomeOf(cause: pg.DatabaseError): Error {
  if (failureOf(cause) !== 'temporary') return outcomeOf(cause)
  return new errors.NotAccepted(`it answered with SQLSTATE ${cause.code}`, { cause })
}

/** Whether a statement should be retried at once, because it was rolled back and the obstacle is temporary. */
export function isTemporary(error: unknown): boolean {
  if (!(error instanceof errors.DatabaseUnavailable)) return false
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
    const code = codeOf(cause) ?? ''
    // 53300: too many connections. 57P03: the server is starting.
    if (TEMPORARY.test(code) || /^(?:53300|57P03)/.test(code)) return true
  }
  return false
}
