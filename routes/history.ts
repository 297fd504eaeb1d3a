import { errors } from '../lib/errors.js'
import type { ChannelQuestion } from './channel-question.js'
import { MAX_MESSAGES, messageCount } from './message-count.js'
import { errorSchema } from './schemas.js'

const DEFAULT_LIMIT = 100

/**
 * `GET /channels/:channel/history`: the stored messages of a durable channel, in pages.
 * - `?since=&limit=`: the oldest first. `next` is the `since` of the next page, if there is one. `gap` is true if messages
 *   after `since` have been deleted.
 * - `?order=desc&before=&limit=`: the newest first. `next` is the `before` of the next page.
 *
 * With `times=true`, `times` says when each message was published.
 */
export const history: ChannelQuestion = {
  schema: {
    summary: 'The stored messages of a durable channel',
    querystring: {
      type: 'object',
      properties: {
        order: {
          type: 'string',
          enum: ['asc', 'desc'],
          default: 'asc',
          description: 'Whether the oldest message (asc) or the newest (desc) comes first.'
        },
        since: {
          type: 'string',
          description:
            'In ascending order: the id of a message. The page begins after it. Default: the oldest message.'
        },
        before: {
          type: 'string',
          description:
            'In descending order: the id of a message. The page begins before it. Default: the newest message.'
        },
        limit: {
          type: 'string',
          description: `The maximum number of messages, up to ${MAX_MESSAGES}. A page has fewer if messages are large. "next" of the answer is the "since" (in descending order the "before") of the next page.`,
          examples: ['100']
        },
        times: {
          type: 'string',
          enum: ['true', 'false'],
          default: 'false',
          description: 'Whether the answer has a list "times": when each message was published, in ISO 8601.'
        }
      }
    },
    response: {
      401: errorSchema('The token is missing or invalid.'),
      403: errorSchema('The token may not read the channel.'),
      409: errorSchema('The id belongs to another epoch of the database: begin with "since=earliest".'),
      501: errorSchema('The schema "pgws" is not installed.')
    }
  },
  async answer(gateway, channel, request, reply, token) {
    const { order = 'asc', since, before, limit, times = 'false' } = request.query
    if (order !== 'asc' && order !== 'desc') throw new errors.BadQuery('"order" must be "asc" or "desc"')
    if (order === 'asc' && before !== undefined) {
      throw new errors.BadQuery('"before" requires "order=desc"; in ascending order, use "since"')
    }
    if (order === 'desc' && since !== undefined) {
      throw new errors.BadQuery('"since" cannot be used with "order=desc": use "before"')
    }
    if (times !== 'true' && times !== 'false') throw new errors.BadQuery('"times" must be "true" or "false"')
    const reader = token.subject ?? request.ip
    const count = limit === undefined ? DEFAULT_LIMIT : messageCount(limit, 'limit')
    const { messages, gap, next } = await (order === 'desc'
      ? gateway.bridge.historyBefore(channel, before, count, reader)
      : gateway.bridge.history(channel, since, count, reader))
    // Each message is already the text of a JSON object.
    reply.type('application/json; charset=utf-8')
    const published = times === 'true' ? `,"times":${JSON.stringify(messages.map(({ time }) => time))}` : ''
    const more = `${published}${gap ? ',"gap":true' : ''}${next === undefined ? '' : `,"next":"${next}"`}`
    const answer = Buffer.from(`{"messages":[${messages.map(({ text }) => text).join(',')}]${more}}`)
    gateway.holdAnswer(reply.raw, answer)
    return answer
  }
}
