import pg from 'pg'
import { asError, codeOf, errors, severityOf } from '../errors.js'

/**
 * SQLSTATE classes (errcodes-appendix.html) with which the server says that it is not there for us at the moment:
 * connection exceptions, insufficient resources (too many connections), operator intervention (shutdown, crash).
 */
const AWAY = /^(?:08|57P|53300)/

/**
 * SQLSTATEs of what is only in the way at the moment, and was surely rolled back: conflicts of transactions (class 40), a
 * lock that was not to be had (55P03), a statement that was cancelled or took too long (57014), a database that may only
 * be read (25006: a standby, or default_transaction_read_only), a transaction that was ended (25P03, 25P04).
 */
const IN_THE_WAY = /^(?:40|55P03|57014|25006|25P0[34])/

/** Classes that are about what was sent (22, data exceptions) or how much there is (54, program limits). */
const ABOUT_THE_MESSAGE = /^(?:22|54)/

/**
 * What a failed statement's error says: no answer came, the server is away, something is in the way at the moment, or it
 * refuses the statement. Not by the error's class: a user's `pg` may be another copy than ours.
 */
export function failureOf(error: unknown): 'unanswered' | 'away' | 'in the way' | 'refused' {
  // What the server answers has both; errors of sockets have a code alone.
  const code = codeOf(error)
  if (severityOf(error) === undefined || code === undefined) return 'unanswered'
  if (AWAY.test(code)) return 'away'
  return IN_THE_WAY.test(code) ? 'in the way' : 'refused'
}

/**
 * What has become of a statement that failed: one that the server answered with an error was rolled back; one without
 * an answer may have been committed.
 *
 * The error's text may go to a client, and so tells neither where the database is nor who asks it; its cause does.
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
  if (kind !== 'refused') return away(cause)
  const code = codeOf(cause) ?? ''
  const reason = ABOUT_THE_MESSAGE.test(code) ? cause.message : `it answered with SQLSTATE ${code}`
  return new errors.NotAccepted(reason, { cause })
}

/** The same where nothing was to be committed yet. */
export function away(failure: unknown): Error {
  const cause = asError(failure)
  const reason =
    cause instanceof pg.DatabaseError ? `it answered with SQLSTATE ${cause.code}` : 'it cannot be reached'
  return new errors.DatabaseUnavailable(reason, { cause })
}

/** What the database refused, where a function of its owner may be the reason: the cause is PostgreSQL's own error. */
export function refused(cause: pg.DatabaseError): Error {
  if (failureOf(cause) !== 'in the way') return outcomeOf(cause)
  return new errors.NotAccepted(`it answered with SQLSTATE ${cause.code}`, { cause })
}

/** Whether a statement that was not accepted is to be tried again at once: nothing was done, and nobody is away. */
export function isInTheWay(error: unknown): boolean {
  if (!(error instanceof errors.DatabaseUnavailable)) return false
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
    const code = codeOf(cause) ?? ''
    // The last ones: too many connections, and a server that is just starting.
    if (IN_THE_WAY.test(code) || /^(?:53300|57P03)/.test(code)) return true
  }
  return false
}
