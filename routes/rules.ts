import type { FastifyInstance } from 'fastify'
import { authorizeAdmin } from '../lib/auth/index.js'
import type { Bridge } from '../lib/bridge.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { verifyBearer } from './handshake/bearer.js'
import { checkQuery } from './known.js'
import { bearer, errorSchema } from './schemas.js'

const text = { type: 'string' }
const sql = {
  type: 'object',
  description: 'Statements to paste.',
  properties: {
    change: { ...text, description: 'Makes the rule once more: change its arguments to change the rule.' },
    end: { ...text, description: 'Ends it.' }
  }
}
const nullableTexts = { type: ['array', 'null'], items: text }

const refusals = {
  400: errorSchema('The query is malformed.'),
  401: errorSchema('The token is missing or invalid.'),
  403: errorSchema("The token is no admin's."),
  501: errorSchema('The schema "pgws" is not installed.'),
  503: errorSchema('The database is unavailable.')
}

const RETENTION = {
  summary: 'The retention rules of durable channels',
  description: 'The rules that `pgws.retain` has made, ordered by pattern.',
  properties: {
    pattern: text,
    age: { ...text, description: 'How long messages are stored.', examples: ['1 day'] },
    maxMessages: {
      type: ['integer', 'null'],
      description: 'How many messages of a channel are stored; null: any number.'
    },
    sql
  }
}

const WATCHES = {
  summary: 'The watched tables',
  description: 'What `pgws.watch` has made, ordered by table and channel.',
  properties: {
    table: { ...text, examples: ['public.orders'] },
    channel: text,
    events: { type: 'array', items: { ...text, enum: ['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'] } },
    columns: { ...nullableTexts, description: 'The columns that changes have; null: all.' },
    condition: { type: ['string', 'null'], description: 'Which changes are published; null: all.' },
    sql
  }
}

/** `GET /retention` and `GET /watches`, for tokens with `"admin": true`. */
export function rulesRoutes(
  fastify: FastifyInstance,
  { bridge, verifyToken }: { bridge: Bridge; verifyToken: VerifyToken }
): void {
  for (const [url, { summary, description, properties }, list] of [
    ['/retention', RETENTION, () => bridge.retention()],
    ['/watches', WATCHES, () => bridge.watches()]
  ] as const) {
    fastify.get(
      url,
      {
        schema: {
          tags: ['rules'],
          summary,
          security: bearer,
          response: {
            200: { description, type: 'array', items: { type: 'object', properties } },
            ...refusals
          }
        }
      },
      async (request) => {
        authorizeAdmin(await verifyBearer(request, verifyToken))
        checkQuery(request)
        return list()
      }
    )
  }
}
