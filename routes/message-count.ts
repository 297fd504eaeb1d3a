import { errors } from '../lib/errors.js'

/** The most messages that a client gets of the history of a channel at once. */
export const MAX_MESSAGES = 1000

/**
 * A number of messages that a parameter of a query asks for.
 * @throws BadQuery (400)
 */
export function messageCount(text: string, name: string): number {
  const count = Number(text)
  if (!Number.isInteger(count) || count < 1 || count > MAX_MESSAGES) {
    throw new errors.BadQuery(`"${name}" must be a whole number from 1 to ${MAX_MESSAGES}`)
  }
  return count
}
