import type { ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { authorizeAdmin } from '../lib/auth/index.js'
import { errors, statusCodeOf } from '../lib/errors.js'
import { EVENT_TYPES, type EventType, isEventType } from '../lib/events/index.js'
import { type FeedQuery, readCursor } from '../lib/feed.js'
import type { Gateway } from '../lib/gateway.js'
import { nextDrain } from '../lib/transports/index.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { verifyBearer } from './handshake/bearer.js'
import { describeRequestAs, maskingSerializers } from './handshake/request-log.js'
import { CONSTRAINT } from './handshake/router-constraint.js'
import { checkQuery, textOf } from './known.js'
import { bearer, errorSchema, HIDDEN } from './schemas.js'
import { answeringScope, scopeSchema } from './scope.js'
import { openStream, requireTurn } from './stream.js'

/** How often it is checked whether the token of a stream is still valid, in milliseconds. */
const CHECK_INTERVAL = 1000

/** How often a stream without events gets a comment, in milliseconds, so that proxies do not close it. */
const HEARTBEAT = 10_000

/** While more bytes wait for the client, it gets no figures. An event ends the stream then; the client continues after the last one. */
const MAX_WAITING = 1024 * 1024

/** How long a client may take to read what was written, when the server closes, in milliseconds. */
const CLOSING_TIMEOUT = 1000

/** How many streams may be open. Each is for a person. */
const MAX_STREAMS = 100

const text = { type: 'string' }
const eventSchema = {
  type: 'object',
  properties: {
    id: { ...text, description: '`<node>-<number>`; the numbers of a node increase.' },
    node: text,
    time: { ...text, format: 'date-time' },
    type: { ...text, enum: EVENT_TYPES },
    level: { ...text, enum: ['info', 'warning', 'error'] },
    text,
    connection: { ...text, description: 'The id of the connection.' },
    subject: { ...text, description: 'The claim "sub".' },
    address: text,
    channels: { type: 'array', items: text, description: 'At most ten.' },
    transport: text,
    code: { type: ['integer', 'string'], description: 'A close code, or the code of an error.' },
    reason: text,
    count: { type: 'integer' }
  }
}

/** `GET /events`: the recent events of this node or of all, and a stream of them, for tokens with `"admin": true`. */
export function eventsRoute(
  fastify: FastifyInstance,
  { gateway, verifyToken }: { gateway: Gateway; verifyToken: VerifyToken }
): void {
  const streams = new Set<ServerResponse>()
  // An open stream would keep the instance from closing.
  fastify.addHook('preClose', async () => {
    for (const response of streams) {
      response.end()
      // A client that does not read would keep it open.
      const timer = setTimeout(() => response.destroy(), CLOSING_TIMEOUT).unref()
      response.on('close', () => clearTimeout(timer))
    }
  })
  const describeRequest = (request: FastifyRequest) => describeRequestAs(request, `${fastify.prefix}/events`)
  const log = { error: fastify.log.error.bind(fastify.log), describeRequest }
  const schema = {
    tags: ['nodes'],
    summary: 'Recent events, and a stream of them',
    description:
      'With `Accept: text/event-stream`, a stream of server-sent events: `Event` for each event, first the kept ones; and with `stats=true` also `NodeStats`, the figures of each node, once a second, first those of the last ten minutes. `Last-Event-ID` continues after an event.',
    security: bearer,
    querystring: {
      type: 'object',
      properties: {
        scope: scopeSchema,
        types: { ...text, description: 'Types of events, separated by commas. Default: all.' },
        stats: { ...text, enum: ['true', 'false'], description: 'Of a stream: whether it has figures.' }
      }
    },
    response: {
      200: {
        description: 'The last 500 events of each node, oldest first.',
        type: 'array',
        items: eventSchema
      },
      400: errorSchema('The query is malformed.'),
      401: errorSchema('The token is missing or invalid.'),
      403: errorSchema("The token is no admin's."),
      503: errorSchema('The database is unavailable, and so are the other nodes.')
    }
  }
  const validatorCompiler = () => () => true

  fastify.get('/events', { schema, validatorCompiler }, async (request, reply) => {
    const query = await admit(request, reply)
    if (query.stats) throw new errors.BadQuery('"stats" needs the header "Accept: text/event-stream"')
    return gateway.listEvents(query, answeringScope(request, reply).onMissing)
  })

  fastify.get(
    '/events',
    {
      schema: { ...HIDDEN, querystring: schema.querystring },
      validatorCompiler,
      exposeHeadRoute: false,
      constraints: { [CONSTRAINT]: 'events' },
      logSerializers: maskingSerializers
    },
    async (request, reply) => {
      requireTurn(reply)
      const query = await admit(request, reply)
      if (gateway.closing) throw new errors.ShuttingDown()
      if (streams.size >= MAX_STREAMS) throw new errors.TooManyConnections()
      openStream(reply, 'text/event-stream; charset=utf-8', log, (response) => {
        serve(response, query, () => verifyBearer(request, verifyToken))
      })
      return reply
    }
  )

  /** @throws what the requests of the control plane throw */
  async function admit(request: FastifyRequest, reply: FastifyReply): Promise<FeedQuery> {
    authorizeAdmin(await verifyBearer(request, verifyToken))
    checkQuery(request)
    const { scope } = answeringScope(request, reply)
    const types = textOf(request.query, 'types')
    const stats = textOf(request.query, 'stats') ?? 'false'
    if (stats !== 'true' && stats !== 'false') throw new errors.BadQuery('"stats" must be "true" or "false"')
    const after = request.headers['last-event-id']
    return {
      scope: scope ?? 'local',
      stats: stats === 'true',
      types: types === undefined ? undefined : readTypes(types),
      after: readCursor(String(after ?? ''))
    }
  }

  /** @param verify rejects once the token is not valid any more */
  function serve(response: ServerResponse, query: FeedQuery, verify: () => Promise<unknown>): void {
    streams.add(response)
    let writtenAt = performance.now()
    let drained: Promise<void> | undefined
    const isFull = () => response.writableLength > MAX_WAITING
    const write = (frame: string) => {
      if (response.writableEnded || response.destroyed) return
      if (!response.write(frame)) {
        drained ??= nextDrain(response).then(() => {
          drained = undefined
        })
      }
      writtenAt = performance.now()
    }
    const overrun = () => response.destroy()
    response.on('error', (error) => fastify.log.debug({ err: error }, 'stream error'))
    const end = gateway.startFeed(query, {
      event: (event, cursor) => {
        if (isFull()) overrun()
        else write(`id: ${cursor}\nevent: Event\ndata: ${JSON.stringify(event)}\n\n`)
      },
      stats: (stats) => {
        if (!isFull()) write(`event: NodeStats\ndata: ${JSON.stringify(stats)}\n\n`)
      },
      drained: async () => drained,
      overrun
    })
    const timer = setInterval(() => {
      if (performance.now() - writtenAt >= HEARTBEAT && !isFull()) write(':\n\n')
      verify().catch((error) => {
        // Keys that cannot be fetched for the moment are no reason.
        if (isRefusal(error)) response.end()
      })
    }, CHECK_INTERVAL).unref()
    response.on('close', () => {
      clearInterval(timer)
      streams.delete(response)
      end()
    })
  }
}

function isRefusal(error: unknown): boolean {
  const status = statusCodeOf(error)
  return status === 401 || status === 403
}

/** @throws BadQuery (400) */
function readTypes(types: string): ReadonlySet<EventType> {
  const all = types.split(',')
  const unknown = all.find((type) => !isEventType(type))
  if (unknown !== undefined) {
    const known = EVENT_TYPES.map((type) => `"${type}"`).join(', ')
    throw new errors.BadQuery(
      `"types" has the unknown type ${JSON.stringify(unknown.slice(0, 50))}: there are ${known}`
    )
  }
  return new Set(all.filter(isEventType))
}
