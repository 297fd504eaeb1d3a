import { errors } from '../lib/errors.js'
import type { ChannelRead } from './channel-read.js'
import { errorSchema } from './schemas.js'

const DEFAULT_LIMIT = 100
const MAX_LIMIT = 1000

/** `GET /channels/:channel/history?since=&limit=`: what is stored of a durable channel. */
export const history: ChannelRead = {
  schema: {
    summary: 'The stored messages of a durable channel',
    querystring: {
      type: 'object',
      properties: {
        since: { type: 'string', description: 'The id of a message: those after it. Default: the oldest.' },
        limit: { type: 'string', description: `At most so many, up to ${MAX_LIMIT}.`, examples: ['100'] }
      }
    },
    response: {
      401: errorSchema('No valid token.'),
      403: errorSchema('The token may not read the channel.'),
      501: errorSchema('Durable channels are not installed.')
    }
  },
  async answer(bridge, channel, request, reply) {
    const { since, limit } = request.query as { since?: string; limit?: string }
    const messages = await bridge.history(channel, since, readLimit(limit))
    // Each is the text of a JSON object already.
    reply.type('application/json; charset=utf-8')
    return `{"messages":[${messages.map(({ text }) => text).join(',')}]}`
  }
}

function readLimit(text: string | undefined): number {
  if (text === undefined) return DEFAULT_LIMIT
  const limit = Number(text)
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT) {
    throw new errors.BadMessage(`"limit" must be a whole number from 1 to ${MAX_LIMIT}`)
  }
  return limit
}
