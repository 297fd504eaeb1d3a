import type { FastifyInstance, FastifyRequest } from 'fastify'
import { authorizeAdmin, type Token } from '../lib/auth/index.js'
import { type Closing, type ConnectionFilter, TRANSPORTS, type TransportName } from '../lib/clients/index.js'
import type { Disconnected } from '../lib/cluster/index.js'
import { errors } from '../lib/errors.js'
import type { Gateway } from '../lib/gateway.js'
import { isObject } from '../lib/json-value.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { verifyBearer } from './handshake/bearer.js'
import { checkQuery, nameAndKnown } from './known.js'
import { answeringPage, pagingHeaders, pagingSchema } from './paging.js'
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
const nullableText = { type: ['string', 'null'] }

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
    userAgent: { ...nullableText, description: 'The header "User-Agent", up to 200 characters.' },
    expiresAt: {
      ...nullableText,
      format: 'date-time',
      description:
        'When it will be closed because its token expires. Clients of SDKs have 25 s more to bring a new one.'
    },
    receivedMessages: { type: 'integer', description: 'Messages of the client that were accepted.' },
    sentMessages: { type: 'integer', description: 'Messages sent to the client.' },
    sentBytes: { type: 'integer', description: 'Bytes sent to the client.' },
    bufferedBytes: { type: 'integer', description: 'Bytes that wait for the client.' }
  }
}

const filterSchema = {
  channel: { ...text, description: 'Connections that have joined this channel.' },
  subject: { ...text, description: 'Connections whose token has this claim "sub".' },
  address: { ...text, description: 'Connections of this IP address.' },
  transport: { ...text, enum: TRANSPORTS, description: 'Connections with this transport.' }
}

const closingSchema = {
  code: { ...text, description: '1000, or 3000 to 4999. Default: 3000.', examples: ['4000'] },
  reason: { ...text, description: 'At most 123 bytes. Default: disconnected.' }
}

const dryRunSchema = {
  ...text,
  enum: ['true', 'false'],
  default: 'false',
  description: 'Whether they are only counted.'
}

const closedSchema = {
  description: 'How many were closed, or would be.',
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
 * `GET /connections`, `DELETE /connections` (both with `subject`, `channel`, `address` and `transport`) and
 * `DELETE /connections/:id`, for tokens with `"admin": true`.
 */
export function connectionsRoutes(
  fastify: FastifyInstance,
  { gateway, verifyToken }: { gateway: Gateway; verifyToken: VerifyToken }
): void {
  const { bridge } = gateway
  const validatorCompiler = () => () => true
  const common = { tags: ['connections'], security: bearer }

  fastify.get<{ Querystring: Texts }>(
    '/connections',
    {
      schema: {
        ...common,
        summary: 'The open connections',
        querystring: { type: 'object', properties: { ...filterSchema, scope: scopeSchema, ...pagingSchema } },
        response: {
          200: {
            description:
              'The websockets and event streams that match all parameters, by node, and from the oldest to the newest.',
            headers: pagingHeaders,
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
      return bridge.connections({
        ...filterOf(request.query),
        ...answeringScope(request, reply),
        ...answeringPage(request, reply)
      })
    }
  )

  fastify.delete<Closed>(
    '/connections',
    {
      schema: {
        ...common,
        summary: 'Close connections on all nodes',
        querystring: {
          type: 'object',
          properties: { ...filterSchema, ...closingSchema, dryRun: dryRunSchema }
        },
        response: { 200: closedSchema, 400: errorSchema('The query is malformed.'), ...refusals }
      },
      validatorCompiler
    },
    async (request) => {
      const token = await verifyBearer(request, verifyToken)
      authorizeAdmin(token)
      checkQuery(request)
      const { dryRun = 'false' } = request.query
      if (dryRun !== 'true' && dryRun !== 'false') {
        throw new errors.BadQuery('"dryRun" must be "true" or "false"')
      }
      const filter = filterOf(request.query)
      const closing = closingOf(request)
      const disconnected = await bridge.disconnect(filter, closing, { dryRun: dryRun === 'true' })
      if (dryRun === 'false') reportClosing(token, filter, closing, disconnected)
      return listMissing(disconnected)
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
      const token = await verifyBearer(request, verifyToken)
      authorizeAdmin(token)
      checkQuery(request)
      const { id } = request.params
      const closing = closingOf(request)
      const { closed, missing } = await bridge.disconnect({ id }, closing)
      if (missing.length > 0) {
        throw new errors.NodesUnavailable(
          `node ${missing} did not answer in time; it may have closed the connection`
        )
      }
      if (closed === 0) throw new errors.NoSuchConnection()
      reportClosing(token, { id }, closing, { closed, missing })
      return { closed }
    }
  )

  /** Logs who has closed which connections, and adds it to the events. */
  function reportClosing(
    { subject }: Token,
    filter: ConnectionFilter,
    { code, reason }: Partial<Closing>,
    { closed, missing }: Disconnected
  ): void {
    const { id, channel } = filter
    const which = Object.entries(filter)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => `${name} ${JSON.stringify(value)}`)
    const failed = missing.length === 0 ? '' : `; these nodes did not answer: ${missing.join(', ')}`
    gateway.administered(
      subject,
      `closed ${closed} ${closed === 1 ? 'connection' : 'connections'} with ${which.join(' and ')}${failed}`,
      {
        ...(id !== undefined && { connection: id }),
        ...(channel !== undefined && { channels: [channel] }),
        code,
        reason,
        count: closed
      }
    )
  }
}

/** The filter of a query; readFilter checks its values. */
function filterOf({ subject, channel, address, transport }: Texts): ConnectionFilter {
  // What is no transport is refused by readFilter.
  return { subject, channel, address, transport: transport as TransportName | undefined }
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
