import type { FastifyInstance, FastifyRequest } from 'fastify'
import { authorizeAdmin } from '../lib/auth/index.js'
import type { Bridge } from '../lib/bridge.js'
import { type Closing, TRANSPORTS } from '../lib/clients/index.js'
import { errors } from '../lib/errors.js'
import { isObject } from '../lib/json-value.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { verifyBearer } from './handshake/bearer.js'
import { checkQuery, nameAndKnown } from './known.js'
import { bearer, errorSchema } from './schemas.js'
import { answeringScope, listMissing, scopeSchema } from './scope.js'

/** The parameters of an address. */
type Texts = Partial<Record<string, string>>

/** A request that closes connections. */
interface Closed {
  Querystring: Texts
  Body: Partial<Closing> | null
}

const text = { type: 'string' }

const connectionSchema = {
  type: 'object',
  properties: {
    id: text,
    node: { ...text, description: 'The id of its node.' },
    subject: { type: ['string', 'null'], description: 'The claim "sub".' },
    channels: { type: 'array', items: text },
    mode: { ...text, enum: ['r', 'w', 'rw'] },
    since: { ...text, format: 'date-time' },
    address: text,
    transport: { ...text, enum: TRANSPORTS },
    protocol: { ...text, enum: ['json', 'protobuf'], description: "The encoding of an SDK's client." },
    bufferedBytes: { type: 'integer', description: 'Bytes that wait for the client.' }
  }
}

const filterSchema = {
  channel: { ...text, description: 'Connections that have joined this channel.' },
  subject: { ...text, description: 'Connections whose token has this claim "sub".' }
}

const closingSchema = {
  code: { ...text, description: '1000, or 3000 to 4999. Default: 3000.', examples: ['4000'] },
  reason: { ...text, description: 'At most 123 bytes. Default: disconnected.' }
}

const closedSchema = {
  description: 'How many were closed.',
  type: 'object',
  properties: {
    closed: { type: 'integer' },
    missing: {
      description: 'The nodes that did not answer in time, if any.',
      type: 'array',
      items: text
    }
  }
}

const refusals = {
  401: errorSchema('The token is missing or invalid.'),
  403: errorSchema("The token is no admin's."),
  503: errorSchema('The database is unavailable, and so are the other nodes.')
}

/**
 * `GET /connections?channel=&subject=&scope=`, `DELETE /connections?subject=&channel=` and `DELETE /connections/:id`,
 * for tokens with `"admin": true`.
 */
export function connectionsRoutes(
  fastify: FastifyInstance,
  { bridge, verifyToken }: { bridge: Bridge; verifyToken: VerifyToken }
): void {
  const validatorCompiler = () => () => true
  const common = { tags: ['connections'], security: bearer }

  fastify.get<{ Querystring: Texts }>(
    '/connections',
    {
      schema: {
        ...common,
        summary: 'The open connections',
        querystring: { type: 'object', properties: { ...filterSchema, scope: scopeSchema } },
        response: {
          200: {
            description: 'The websockets and event streams that match all parameters.',
            type: 'array',
            items: connectionSchema
          },
          400: errorSchema('The query is malformed.'),
          ...refusals
        }
      },
      validatorCompiler
    },
    async (request, reply) => {
      authorizeAdmin(await verifyBearer(request, verifyToken))
      checkQuery(request)
      const { subject, channel } = request.query
      return bridge.connections({ subject, channel, ...answeringScope(request, reply) })
    }
  )

  fastify.delete<Closed>(
    '/connections',
    {
      schema: {
        ...common,
        summary: 'Close connections on all nodes',
        querystring: { type: 'object', properties: { ...filterSchema, ...closingSchema } },
        response: { 200: closedSchema, 400: errorSchema('The query is malformed.'), ...refusals }
      },
      validatorCompiler
    },
    async (request) => {
      authorizeAdmin(await verifyBearer(request, verifyToken))
      checkQuery(request)
      const { subject, channel } = request.query
      return listMissing(await bridge.disconnect({ subject, channel }, closingOf(request)))
    }
  )

  fastify.delete<Closed & { Params: { id: string } }>(
    '/connections/:id',
    {
      schema: {
        ...common,
        summary: 'Close a connection, on any node',
        params: { type: 'object', properties: { id: text } },
        querystring: { type: 'object', properties: closingSchema },
        response: {
          200: closedSchema,
          400: errorSchema('The query is malformed.'),
          404: errorSchema('No node has a connection with this id.'),
          ...refusals
        }
      },
      validatorCompiler
    },
    async (request) => {
      authorizeAdmin(await verifyBearer(request, verifyToken))
      checkQuery(request)
      const { id } = request.params
      const { closed, missing } = await bridge.disconnect({ id }, closingOf(request))
      if (missing.length > 0) {
        throw new errors.NodesUnavailable(
          `node ${missing} did not answer in time; it may have closed the connection`
        )
      }
      if (closed === 0) throw new errors.NoSuchConnection()
      return { closed }
    }
  )
}

/**
 * The code and reason of a query, or of a JSON body; readClosing checks them.
 * @throws BadQuery (400) for a body with anything else
 */
function closingOf({ query, body }: FastifyRequest<Closed>): Partial<Closing> {
  const unknown = isObject(body)
    ? Object.keys(body).find((name) => !Object.hasOwn(closingSchema, name))
    : undefined
  if (unknown !== undefined) {
    throw new errors.BadQuery(`in the body, ${nameAndKnown(unknown, Object.keys(closingSchema))}`)
  }
  const { code, reason } = query
  const inQuery = {
    ...(code !== undefined && { code: Number(code) }),
    ...(reason !== undefined && { reason })
  }
  return { ...inQuery, ...body }
}
