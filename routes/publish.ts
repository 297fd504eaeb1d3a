import { createHash } from 'node:crypto'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { authorizeAdmin, authorizeWrite, type Claims, type Token } from '../lib/auth/index.js'
import type { OutgoingMessage } from '../lib/bridge.js'
import { checkChannel } from '../lib/channel-name.js'
import { errors, statusCodeOf } from '../lib/errors.js'
import type { Gateway } from '../lib/gateway.js'
import { elementsOf, JsonText, membersOf } from '../lib/json-text.js'
import { isObject } from '../lib/json-value.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { bearerToken, verifyBearer } from './handshake/bearer.js'
import { checkQuery, nameAndKnown } from './known.js'
import { bearer, errorSchema, rejectionSchema } from './schemas.js'
import { listMissing } from './scope.js'

/** The `Retry-After` of an answer while the database is unavailable, in seconds. */
const RETRY_AFTER = 1

const messageSchema = {
  type: 'object',
  required: ['payload'],
  properties: {
    channel: { type: 'string', minLength: 1, examples: ['chat'] },
    channels: { type: 'array', items: { type: 'string', minLength: 1 }, minItems: 1 },
    payload: { description: 'A string, or any other JSON value.', examples: ['hello'] },
    confirm: {
      type: 'boolean',
      description: 'Answer 200 with the number of clients that received it. For a list, set it in the query.'
    },
    as: {
      type: 'string',
      minLength: 1,
      description:
        'For administrators: the claim "sub" of the sender that readers see, in place of the claims of the token. For a list, set it in the query.'
    }
  },
  description: 'A message for one channel (`channel`) or for several (`channels`).'
}

/** The members of a message. */
const MEMBERS = Object.keys(messageSchema.properties)

/** The member of a parsed message with the name of an unknown member. */
const UNKNOWN = Symbol('unknown')

/** `POST /publish`: publishes messages, all or none. Answers when the database has accepted them. */
export async function publishRoute(
  fastify: FastifyInstance,
  { gateway, verifyToken, maxChannels }: { gateway: Gateway; verifyToken: VerifyToken; maxChannels: number }
): Promise<void> {
  // Other parsers, Fastify's included, would parse the payloads, which must be passed on unchanged.
  fastify.removeContentTypeParser('application/json')
  fastify.addContentTypeParser('application/json', { parseAs: 'string' }, async (_: unknown, body: string) =>
    readBody(body)
  )
  fastify.post(
    '/publish',
    {
      schema: {
        tags: ['publish'],
        summary: 'Publish messages',
        security: bearer,
        headers: {
          type: 'object',
          properties: {
            'idempotency-key': {
              type: 'string',
              description:
                'With the same key, messages to durable channels are stored once, however often they are sent.'
            }
          }
        },
        querystring: {
          type: 'object',
          properties: {
            confirm: {
              type: 'string',
              enum: ['true', 'false'],
              description: 'Answer 200 with the number of clients that received them.'
            },
            as: {
              type: 'string',
              description:
                'For administrators: the claim "sub" of the sender that readers see, in place of the claims of the token.'
            }
          }
        },
        body: { anyOf: [messageSchema, { type: 'array', items: messageSchema, minItems: 1 }] },
        response: {
          200: {
            description:
              'With `confirm`: how many clients received them; the sum, for several messages or channels.',
            type: 'object',
            properties: {
              delivered: { type: 'integer', description: 'The number of clients, on all nodes.' },
              nodes: { type: 'integer', description: 'The number of nodes that answered.' },
              missing: {
                description: 'The nodes that did not answer in time, if any.',
                type: 'array',
                items: { type: 'string' }
              }
            }
          },
          202: {
            description: 'The database has accepted all of them.',
            type: 'object',
            properties: {
              accepted: {
                type: 'array',
                items: {
                  type: 'object',
                  properties: { channels: { type: 'array', items: { type: 'string' } } }
                }
              }
            }
          },
          400: errorSchema('The body is malformed.'),
          401: errorSchema('The token is missing or invalid.'),
          403: errorSchema("The token may not write one of the channels, or with `as` is no admin's."),
          413: errorSchema('A message is too large.'),
          422: rejectionSchema(
            'A function of the database has refused a message: its `message` and `sqlstate`.'
          ),
          503: errorSchema('The database is unavailable. Retry-After says when to try again.')
        }
      },
      // Not by the schema, because a host's validator may coerce types, and `{"channel":5}` must not be the channel "5".
      validatorCompiler: () => () => true
    },
    async (request, reply) => {
      const token = await verifyBearer(request, verifyToken)
      checkQuery(request)
      const messages = parseBody(request.body, maxChannels)
      const channels = [...new Set(messages.flatMap((message) => message.channels))]
      if (channels.length > maxChannels) throw new errors.TooManyPublishChannels(channels.length, maxChannels)
      authorizeWrite(token, channels)
      const as = readAs(request)
      const claims = claimsFor(token, as)
      try {
        const caller = await gateway.authorize(token, channels, 'w')
        const key = keyOf(request, token)
        const confirm = readConfirm(request)
        const delivery = await gateway.bridge.publishAll(messages, claims, { key, caller, confirm })
        if (as !== undefined) {
          const count = messages.length
          gateway.administered(
            token.subject,
            `published ${count} ${count === 1 ? 'message' : 'messages'} as ${JSON.stringify(as)}`,
            { channels, count }
          )
        }
        if (delivery) return reply.code(200).send(listMissing(delivery))
      } catch (error) {
        if (statusCodeOf(error) === 503) reply.header('retry-after', RETRY_AFTER)
        throw error
      }
      return reply.code(202).send({ accepted: messages.map(({ channels }) => ({ channels })) })
    }
  )
}

/** Parses a body, but leaves the payloads as text. @throws BadMessage (400) if it is not JSON */
function readBody(text: string): unknown {
  const elements = elementsOf(text)
  return elements === undefined ? readItem(text) : elements.map(readItem)
}

function readItem(text: string): unknown {
  const members = membersOf(text)
  try {
    if (members === undefined) return JSON.parse(text)
  } catch {
    throw new errors.BadMessage('the body must be JSON')
  }
  const item: Record<string | symbol, unknown> = {}
  for (const name of members.keys()) if (!MEMBERS.includes(name)) item[UNKNOWN] = name
  for (const name of ['channel', 'channels', 'confirm', 'as']) {
    const value = members.get(name)
    if (value !== undefined) item[name] = JSON.parse(value)
  }
  const payload = members.get('payload')
  return payload === undefined ? item : { ...item, payload: new JsonText(payload) }
}

/** @throws BadMessage (400) */
function readConfirm({ query, body }: FastifyRequest): boolean {
  const { confirm } = isObject(query) ? query : {}
  if (confirm !== undefined && confirm !== 'true' && confirm !== 'false') {
    throw new errors.BadMessage('"confirm" in the query must be true or false')
  }
  if (Array.isArray(body)) {
    // There is one answer for all messages of the list.
    refuseInItems(body, 'confirm', '?confirm=true')
    return confirm === 'true'
  }
  const { confirm: inBody } = isObject(body) ? body : {}
  if (inBody !== undefined && typeof inBody !== 'boolean') {
    throw new errors.BadMessage('"confirm" in the body must be true or false')
  }
  return inBody ?? confirm === 'true'
}

/**
 * As whom a request publishes; undefined: as the owner of its token.
 * @throws BadMessage (400)
 */
function readAs({ query, body }: FastifyRequest): string | undefined {
  const { as } = isObject(query) ? query : {}
  // All messages of a list have one sender.
  if (Array.isArray(body)) refuseInItems(body, 'as', '?as=')
  const value = isObject(body) && body.as !== undefined ? body.as : as
  if (value !== undefined && (typeof value !== 'string' || value === '')) {
    throw new errors.BadMessage('"as" must be a non-empty string: the "sub" of the sender')
  }
  return value
}

/** The claims of the sender. @throws AdminOnly (403) */
function claimsFor(token: Token, as: string | undefined): Claims {
  if (as === undefined) return token.claims
  authorizeAdmin(token)
  // None of the administrator's own claims, such as a name.
  return { sub: as }
}

/** @throws BadMessage (400) for a member that a message of a list must not have */
function refuseInItems(items: readonly unknown[], name: 'confirm' | 'as', query: string): void {
  const index = items.findIndex((item) => isObject(item) && item[name] !== undefined)
  if (index === -1) return
  throw new errors.BadMessage(
    `item ${index} of the list must not have "${name}": add ${query} to the address`
  )
}

/**
 * The idempotency key of a request. It belongs to the token's `iss` and `sub` (RFC 7519, sections 4.1.1 and 4.1.2). Without
 * a `sub`, it belongs to this one token, because other clients have tokens without a `sub`, too.
 */
function keyOf(request: FastifyRequest, { issuer, subject }: Token): string | undefined {
  const header = request.headers['idempotency-key']
  if (header === undefined || header === '') return undefined
  const sender = subject ? [issuer, subject] : [bearerToken(request)]
  const digest = createHash('sha256')
    .update(JSON.stringify([...sender, header]))
    .digest('base64url')
  return `http:${digest}`
}

/** @throws BadMessage, TooManyPublishChannels (400), which name the place and what is expected */
function parseBody(body: unknown, maxChannels: number): OutgoingMessage[] {
  if (!Array.isArray(body)) return [parseMessage(body, 'the body', maxChannels)]
  if (body.length === 0) throw new errors.BadMessage('the list must not be empty')
  return body.map((item, index) => parseMessage(item, `item ${index} of the list`, maxChannels))
}

function parseMessage(value: unknown, place: string, maxChannels: number): OutgoingMessage {
  if (!isObject(value)) {
    throw new errors.BadMessage(`${place} must be an object with "channel" or "channels", and "payload"`)
  }
  const { channel, channels, payload } = value
  // Only `readItem` can have set it.
  const { [UNKNOWN]: unknown } = value as { [UNKNOWN]?: string }
  if (unknown !== undefined) throw new errors.BadMessage(`in ${place}, ${nameAndKnown(unknown, MEMBERS)}`)
  if (payload === undefined) throw new errors.BadMessage(`${place} must have a "payload"`)
  if ((channel === undefined) === (channels === undefined)) {
    throw new errors.BadMessage(`${place} must have either "channel" or "channels", and not both`)
  }
  if (channel !== undefined) return { channels: [channelIn(channel, `"channel" of ${place}`)], payload }
  if (!Array.isArray(channels) || channels.length === 0) {
    throw new errors.BadMessage(`"channels" of ${place} must be a list of at least one channel`)
  }
  // Before the names are checked, because there may be very many.
  const { size } = new Set(channels)
  if (size > maxChannels) throw new errors.TooManyPublishChannels(size, maxChannels)
  const names = channels.map((name, index) => channelIn(name, `"channels[${index}]" of ${place}`))
  return { channels: [...new Set(names)], payload }
}

function channelIn(name: unknown, place: string): string {
  if (typeof name !== 'string' || name === '')
    throw new errors.BadMessage(`${place} must be a non-empty string`)
  checkChannel(name, place)
  return name
}
