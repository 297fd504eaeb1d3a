import { asError } from '../../../errors.js'
import { JsonText, jsonObjectOf, membersOf, oneLine } from '../../../json-text.js'
import { isInteger, isObject } from '../../../json-value.js'
import type { Message } from '../../../messages/index.js'
import type { Codec } from './codec.js'
import { DISCONNECT, DisconnectError, type Incoming, PONG } from './protocol.js'
import { type PublicationSender, publicationOf } from './publication.js'
import type { EncodedPublications, Reply, SubscribeResult } from './replies.js'

const EMPTY = '{}'

/** The protocol in JSON: commands and replies are objects, one per line. */
export const json: Codec<string> = {
  *commandsIn(data) {
    for (const line of linesOf(data.toString())) yield commandIn(line)
  },
  isPong: (data) => data.length === EMPTY.length && data.toString('latin1') === EMPTY,
  ping: EMPTY,
  reply(reply) {
    if ('method' in reply) return `{"id":${reply.id},"${reply.method}":${resultText(reply.result)}}`
    if ('push' in reply && 'message' in reply.push) {
      return `{"push":{"message":{"data":${reply.push.message.data.text}}}}`
    }
    return JSON.stringify(reply)
  },
  publication: (message) =>
    `{"push":{"channel":${JSON.stringify(message.channel)},"pub":${publicationText(message)}}}`,
  withinReply: (message) => Buffer.from(publicationText(message))
}

/** The lines of a text from a client, one at a time and trimmed. */
function* linesOf(text: string): Generator<string> {
  for (let start = 0; start < text.length; ) {
    const end = text.indexOf('\n', start)
    const stop = end === -1 ? text.length : end
    yield text.slice(start, stop).trim()
    start = stop + 1
  }
}

function commandIn(line: string): Incoming {
  if (line === '') return undefined
  try {
    return readCommand(line)
  } catch (error) {
    return asError(error)
  }
}

/**
 * Parses a line: `{"id":1,"subscribe":{…}}`; `send` and the answer to a ping (`{}`) have no id.
 * @throws DisconnectError if it is not a command
 */
function readCommand(line: string): Incoming {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'not JSON')
  }
  if (!isObject(value)) throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'a command must be a JSON object')
  const { id, ...rest } = value
  const [method] = Object.keys(rest)
  if (method === undefined && id === undefined) return PONG
  if (method === undefined) throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'a command needs a method')
  const params = rest[method]
  if (!isObject(params)) throw new DisconnectError(DISCONNECT.BAD_REQUEST, `${method} must be an object`)
  if (method === 'send') return { id: 0, method, params }
  if (!isInteger(id) || id <= 0) {
    throw new DisconnectError(DISCONNECT.BAD_REQUEST, 'a command needs an id, a positive integer')
  }
  if (method === 'publish' && params.data !== undefined) params.data = dataIn(line)
  return { id, method, params }
}

/** @param line the JSON text of a publish command */
function dataIn(line: string): JsonText {
  return new JsonText(membersOf(membersOf(line)!.get('publish')!)!.get('data')!)
}

/** The text of a result. Publications are in JSON already, also those of the subscriptions of `connect`. */
function resultText(result: Extract<Reply, { method: string }>['result']): string {
  // All results are objects, and these members have the same types in each that has them.
  const { publications, subs, ...members } = result as SubscribeResult & {
    subs?: Record<string, SubscribeResult>
  }
  return jsonObjectOf({
    ...members,
    publications: publications && new JsonText(arrayText(publications)),
    subs: subs && new JsonText(subscriptionsText(subs))
  })
}

function subscriptionsText(subs: Record<string, SubscribeResult>): string {
  const texts = Object.entries(subs).map(
    ([channel, result]) => `${JSON.stringify(channel)}:${resultText(result)}`
  )
  return `{${texts.join(',')}}`
}

function arrayText(publications: EncodedPublications): string {
  return `[${publications.join(',')}]`
}

/**
 * Encodes a message as a publication, in one line. `tags.event` is its event, `info` the sender of a client's message, and
 * `offset` the position of a durable message.
 */
function publicationText(message: Message): string {
  const { data, event, bytes, sender } = publicationOf(message)
  const { position } = message
  const offset = position === undefined ? '' : `"offset":${position},`
  let tags = event === undefined ? '' : `"event":${event}`
  if (bytes !== undefined) tags += `${tags === '' ? '' : ','}"encoding":"base64"`
  const tagsMember = tags === '' ? '' : `,"tags":{${tags}}`
  const info = sender === undefined ? '' : `,"info":${senderText(sender)}`
  return oneLine(`{${offset}"data":${data}${tagsMember}${info}}`)
}

function senderText({ user, claims }: PublicationSender): string {
  return `{"user":${user},"client":""${claims === undefined ? '' : `,"conn_info":${claims}`}}`
}
