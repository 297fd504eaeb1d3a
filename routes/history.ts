import { errors } from '../lib/errors.js'
import type { ChannelQuestion } from './channel-question.js'
import { errorSchema } from './schemas.js'

const DEFAULT_LIMIT = 100
const MAX_LIMIT = 1000

/**
 * `GET /channels/:channel/history?since=&limit=`: what is stored of a durable channel, in pages. `next` is the `since` of
 * the next one, where there is one; `gap` says that messages after `since` have gone.
 */
export const history: ChannelQuestion = {
  schema: {
    summary: 'The stored messages of a durable channel',
    querystring: {
      type: 'object',
      properties: {
        since: { type: 'string', description: 'The id of a message: those after it. Default: the oldest.' },
        limit: {
          type: 'string',
          description: `At most so many, up to ${MAX_LIMIT}; fewer where they are large: "next" of the answer is the "since" of the next page.`,
          examples: ['100']
        }
      }
    },
    response: {
      401: errorSchema('No valid token.'),
      403: errorSchema('The token may not read the channel.'),
      409: errorSchema('"since" is of another epoch of the database: begin with "earliest".'),
      501: errorSchema('Durable channels are not installed.')
    }
  },
  async answer(gateway, channel, request, reply, token) {
    const { since, limit } = request.query as { since?: string; limit?: string }
    const reader = token.subject ?? request.ip
    const { messages, gap, next } = await gateway.bridge.history(channel, since, readLimit(limit), reader)
    // Each is the text of a JSON object already.
    reply.type('application/json; charset=utf-8')
    const more = `${gap ? ',"gap":true' : ''}${next === undefined ? '' : `,"next":"${next}"`}`
    const answer = Buffer.from(`{"messages":[${messages.map(({ text }) => text).join(',')}]${more}}`)
    gateway.holdAnswer(reply.raw, answer)
    return answer
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
