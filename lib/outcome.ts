import pg from 'pg'
import { errors } from './errors.js'

/**
 * SQLSTATE classes (errcodes-appendix.html) with which the server says that it is not there for us at the moment:
 * connection exceptions, insufficient resources (too many connections), operator intervention (shutdown, crash).
 */
const AWAY = /^(?:08|57P|53300)/

/** Classes that are about what was sent (22, data exceptions) or how much there is (54, program limits). */
const ABOUT_THE_MESSAGE = /^(?:22|54)/

/**
 * What has become of a statement that failed: one that the server answered with an error was rolled back; one without
 * an answer may have been committed.
 *
 * The error's text may go to a client, and so tells neither where the database is nor who asks it; its cause does.
 * @returns DatabaseAway, NotAccepted or OutcomeUnknown
 */
export function outcomeOf(failure: unknown): Error {
  const cause = failure as Error
  if (!(cause instanceof pg.DatabaseError)) {
    return new errors.OutcomeUnknown('the connection broke, or no answer came in time', { cause })
  }
  const { code = '' } = cause
  if (AWAY.test(code)) return away(cause)
  const reason = ABOUT_THE_MESSAGE.test(code) ? cause.message : `it answered with SQLSTATE ${code}`
  return new errors.NotAccepted(reason, { cause })
}

/** The same where nothing was to be committed yet. */
export function away(failure: unknown): Error {
  const cause = failure as Error
  const reason =
    cause instanceof pg.DatabaseError
      ? `it answered with SQLSTATE ${cause.code}`
      : 'it cannot be reached at the moment'
  return new errors.DatabaseAway(reason, { cause })
}
