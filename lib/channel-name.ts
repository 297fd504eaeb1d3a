import { errors } from './errors.js'

/** The maximum size of the name of a websocket channel, in bytes of UTF-8. */
export const MAX_CHANNEL_BYTES = 1024

/**
 * Says what is wrong with the name of a websocket channel. Names from every source are checked here: addresses, tokens,
 * the control plane, the SDKs' commands, notifications.
 *
 * A lone surrogate has no UTF-8 encoding (PostgreSQL and websocket frames would alter it), PostgreSQL's text cannot
 * contain NUL (https://www.postgresql.org/docs/current/datatype-character.html), and the hub uses names that begin with
 * NUL internally.
 * @returns what is expected, for an error's text; undefined if the name is valid
 */
export function channelNameProblem(name: string): string | undefined {
  if (name === '') return 'a channel name must not be empty'
  // A UTF-16 unit takes one to three bytes of UTF-8, so few names must be encoded to measure them.
  const { length } = name
  if (
    length > MAX_CHANNEL_BYTES ||
    (length * 3 > MAX_CHANNEL_BYTES && Buffer.byteLength(name) > MAX_CHANNEL_BYTES)
  ) {
    return `a channel name must have at most ${MAX_CHANNEL_BYTES} bytes of UTF-8`
  }
  if (name.includes('\0')) return 'a channel name must not contain a NUL character'
  if (!name.isWellFormed()) return 'a channel name must be well-formed Unicode, without lone surrogates'
  return undefined
}

/**
 * @param place where the name was found, for the error's text
 * @throws BadMessage (400)
 */
export function checkChannel(name: string, place: string): void {
  const problem = channelNameProblem(name)
  if (problem !== undefined) throw new errors.BadMessage(`${place}: ${problem}`)
}
