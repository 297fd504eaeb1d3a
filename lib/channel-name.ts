import { errors } from './errors.js'

/** How many bytes of UTF-8 the name of a websocket channel may have. */
export const MAX_CHANNEL_BYTES = 1024

/**
 * Says what is wrong with the name of a websocket channel. Every way in asks here: addresses, tokens, the control
 * plane, the SDKs' commands, notifications.
 *
 * A lone surrogate has no UTF-8 (PostgreSQL and WebSocket frames would alter it), PostgreSQL's text holds no NUL
 * (https://www.postgresql.org/docs/current/datatype-character.html), and names that begin with NUL are the hub's own.
 * @returns what is expected, for an error's text; undefined where the name is good
 */
export function channelNameProblem(name: string): string | undefined {
  if (name === '') return 'a channel name must not be empty'
  // A unit of UTF-16 takes one to three bytes of UTF-8: few texts are encoded to be measured.
  const { length } = name
  if (
    length > MAX_CHANNEL_BYTES ||
    (length * 3 > MAX_CHANNEL_BYTES && Buffer.byteLength(name) > MAX_CHANNEL_BYTES)
  ) {
    return `a channel name has at most ${MAX_CHANNEL_BYTES} bytes of UTF-8`
  }
  if (name.includes('\0')) return 'a channel name must not contain a NUL character'
  if (!name.isWellFormed()) return 'a channel name must be well-formed Unicode: it has a lone surrogate'
  return undefined
}

/**
 * @param place what the name is of, for the error's text
 * @throws BadMessage (400)
 */
export function checkChannel(name: string, place: string): void {
  const problem = channelNameProblem(name)
  if (problem !== undefined) throw new errors.BadMessage(`${place}: ${problem}`)
}
