import { errors } from '../errors.js'

/** The maximum size of the name of a database channel, in bytes: PostgreSQL's NAMEDATALEN minus one (sql-notify.html). */
export const CHANNEL_NAME_LIMIT = 63

/**
 * PostgreSQL refuses a notification whose payload has this many bytes or more
 * (https://www.postgresql.org/docs/current/sql-notify.html, and NOTIFY_PAYLOAD_MAX_LENGTH in async.c).
 */
export const NOTIFY_PAYLOAD_LIMIT = 8000

/**
 * Says what is wrong with the name of a database channel. `listenTo` also checks it against the database's encoding.
 * @returns what is expected, for an error's text; undefined if the name is valid
 */
export function databaseChannelProblem(name: string): string | undefined {
  if (name === '' || Buffer.byteLength(name) > CHANNEL_NAME_LIMIT || name.includes('\0')) {
    return `the name of a database channel must have 1 to ${CHANNEL_NAME_LIMIT} bytes and no NUL character`
  }
  // It would be sent as U+FFFD, and notifications would arrive under that other name.
  if (!name.isWellFormed()) {
    return 'the name of a database channel must be well-formed Unicode, without lone surrogates'
  }
  return undefined
}

/** @throws BadMessage (400) if PostgreSQL does not allow the name */
export function checkDatabaseChannel(name: string): void {
  const problem = databaseChannelProblem(name)
  if (problem !== undefined) throw new errors.BadMessage(problem)
}
