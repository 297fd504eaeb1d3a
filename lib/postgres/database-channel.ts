import { errors } from '../errors.js'

/** PostgreSQL's NAMEDATALEN less one: what the name of a database channel may take, in bytes (sql-notify.html). */
export const CHANNEL_NAME_LIMIT = 63

/**
 * PostgreSQL refuses a notification whose payload has this many bytes or more
 * (https://www.postgresql.org/docs/current/sql-notify.html, and NOTIFY_PAYLOAD_MAX_LENGTH in async.c).
 */
export const NOTIFY_PAYLOAD_LIMIT = 8000

/**
 * Says what is wrong with the name of a database channel, whatever the database's encoding: see `listenTo` for that.
 * @returns what is expected, for an error's text; undefined where the name is good
 */
export function databaseChannelProblem(name: string): string | undefined {
  if (name === '' || Buffer.byteLength(name) > CHANNEL_NAME_LIMIT || name.includes('\0')) {
    return `a database channel's name has 1 to ${CHANNEL_NAME_LIMIT} bytes and no NUL character`
  }
  // It would go to the database as U+FFFD, and notifications would come back under that other name.
  if (!name.isWellFormed()) {
    return "a database channel's name must be well-formed Unicode: it has a lone surrogate"
  }
  return undefined
}

/** @throws BadMessage (400) when PostgreSQL cannot have a channel of this name */
export function checkDatabaseChannel(name: string): void {
  const problem = databaseChannelProblem(name)
  if (problem !== undefined) throw new errors.BadMessage(problem)
}
