import { MAX_LISTED } from '../lib/presence/index.js'
import type { ChannelQuestion } from './channel-question.js'
import { errorSchema } from './schemas.js'
import { MISSING_HEADER, namingMissing } from './scope.js'

/** `GET /channels/:channel/presence`: the members of a presence channel, on all nodes. */
export const presence: ChannelQuestion = {
  schema: {
    summary: 'The members of a presence channel, on all nodes',
    response: {
      200: {
        description: `While the database is unavailable, the answer has the last known members of the other nodes. ${MISSING_HEADER}`,
        type: 'object',
        properties: {
          clients: {
            description: `Missing if there are more than ${MAX_LISTED} members.`,
            type: 'array',
            items: {
              type: 'object',
              properties: {
                client: { type: 'string', description: 'The id of the connection.' },
                user: { type: 'string', description: 'The claim "sub" of its token, or empty.' },
                info: { description: 'The claim "info" of an SDK\'s token, any JSON value.' }
              }
            }
          },
          count: { type: 'integer', description: 'The number of clients.' },
          users: { type: 'integer', description: 'The number of different users.' }
        }
      },
      401: errorSchema('The token is missing or invalid.'),
      403: errorSchema('The token may not read the channel.'),
      404: errorSchema('The channel is no presence channel.'),
      503: errorSchema('Other nodes must be asked, and the database is unavailable.')
    }
  },
  async answer(gateway, channel, _request, reply) {
    const { clients, count, users } = await gateway.bridge.presence(channel, namingMissing(reply))
    return count > MAX_LISTED ? { count, users } : { clients, count, users }
  }
}
