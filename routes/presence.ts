import { MAX_LISTED } from '../lib/presence/index.js'
import type { ChannelQuestion } from './channel-question.js'
import { errorSchema } from './schemas.js'

/** `GET /channels/:channel/presence`: who is in a presence channel, on all nodes. */
export const presence: ChannelQuestion = {
  schema: {
    summary: 'Who is in a presence channel, on all nodes',
    response: {
      200: {
        description:
          'While the database is unavailable, the answer has the last known members of the other nodes.',
        type: 'object',
        properties: {
          clients: {
            description: `Missing where there are more than ${MAX_LISTED}.`,
            type: 'array',
            items: {
              type: 'object',
              properties: {
                client: { type: 'string', description: "The connection's id." },
                user: { type: 'string', description: 'The claim "sub" of its token, or empty.' },
                info: { description: 'What else others see of it: any JSON value, or missing.' }
              }
            }
          },
          count: { type: 'integer', description: 'How many clients.' },
          users: { type: 'integer', description: 'How many different users.' }
        }
      },
      401: errorSchema('No valid token.'),
      403: errorSchema('The token may not read the channel.'),
      404: errorSchema('The channel is no presence channel.')
    }
  },
  answer(gateway, channel) {
    const { clients, count, users } = gateway.bridge.presence(channel)
    return count > MAX_LISTED ? { count, users } : { clients, count, users }
  }
}
