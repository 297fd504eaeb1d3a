import { errors } from '../lib/errors.js'

/** The maximum number of messages of a channel's history in one answer. */
export const MAX_MESSAGES = 1000

/**
 * Reads a number of messages from a parameter of a query.
 * @throws BadQuery (400)
 */
export function messageCount(text: string, name: string): number {
  const count = Number(text)
  if (!Number.isInteger(count) || count < 1 || count > MAX_MESSAGES) {
    throw new errors.BadQuery(`"${name}" must be a whole number from 1 to ${MAX_MESSAGES}`)
  }
  return count
}
