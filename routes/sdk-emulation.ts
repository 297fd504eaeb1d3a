import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { isAllowedOrigin, type ResolvedOptions } from '../lib/config/index.js'
import { errors } from '../lib/errors.js'
import type { Gateway } from '../lib/gateway.js'
import { isObject } from '../lib/json-value.js'
import {
  DISCONNECT,
  PROTOBUF_TYPE,
  protobufDisconnect,
  type SdkFormat,
  sdkEventStreamFrames,
  sdkLineFrames
} from '../lib/protocols/centrifugo/index.js'
import { queryOf } from './handshake/address.js'
import { refused } from './handshake/admit.js'
import { describeRequestAs } from './handshake/request-log.js'
import { CONSTRAINT } from './handshake/router-constraint.js'
import { HIDDEN } from './schemas.js'
import { openStream, requireTurn } from './stream.js'

export interface SdkEmulationOptions {
  gateway: Gateway
  options: Pick<ResolvedOptions, 'allowedOrigins' | 'maxMessageBytes'>
}

/** The constraint for addresses with a token, or with `Accept: text/event-stream` (routes/channel.ts). */
const CONSTRAINTS = [{}, { [CONSTRAINT]: 'events' }, { [CONSTRAINT]: 'token' }]

/**
 * The HTTP transports of Centrifugo's client SDKs, for clients whose websockets are blocked. Clients read the response to
 * `/connection/sse` or `/connection/http_stream`, and send commands to `/emulation`, which may be on another node
 * (https://centrifugal.dev/docs/transports/http_stream).
 */
export async function sdkEmulationRoutes(
  fastify: FastifyInstance,
  { gateway, options }: SdkEmulationOptions
): Promise<void> {
  // The SDK sends lines of JSON as application/json.
  fastify.removeAllContentTypeParsers()
  fastify.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => done(null, body))

  const describeRequest = (request: FastifyRequest) => {
    const [path = ''] = request.raw.url!.split('?')
    return describeRequestAs(request, path)
  }
  const log = { error: fastify.log.error.bind(fastify.log), describeRequest }
  const common = {
    exposeHeadRoute: false,
    bodyLimit: options.maxMessageBytes,
    schema: HIDDEN,
    logLevel: 'warn',
    // The address may contain a token.
    logSerializers: { req: describeRequest }
  } as const

  async function admit(request: FastifyRequest): Promise<void> {
    if (gateway.closing) throw new errors.ShuttingDown()
    if (!isAllowedOrigin(request.headers.origin, options.allowedOrigins)) throw new errors.OriginNotAllowed()
  }

  function routeAll(route: Omit<RouteOptions, 'schema'>): void {
    for (const constraints of CONSTRAINTS) fastify.route({ ...common, ...route, constraints })
  }

  function stream(url: string, method: 'GET' | 'POST', begin: (reply: FastifyReply, text: string) => void) {
    routeAll({
      url,
      method,
      onError: refused(fastify, gateway, describeRequest),
      async preValidation(request, reply) {
        requireTurn(reply)
        await admit(request)
      },
      async handler(request, reply) {
        // After an error status the SDK would retry forever. This reply makes it stop, as the close code does.
        if (request.headers['content-type']?.startsWith(PROTOBUF_TYPE)) {
          return reply.type(PROTOBUF_TYPE).send(protobufDisconnect(DISCONNECT.INAPPROPRIATE_PROTOCOL))
        }
        const text = method === 'GET' ? queryOf(request.raw.url!).get('cf_connect') : bodyOf(request)
        if (!text) {
          const place = method === 'GET' ? 'the parameter "cf_connect"' : 'the body'
          throw new errors.BadQuery(`${place} must contain commands, one JSON object per line`)
        }
        await gateway.admit(reply.raw, request.ip)
        begin(reply, text)
        return reply
      }
    })
  }

  const begin =
    (contentType: string, format: SdkFormat, first: string) => (reply: FastifyReply, text: string) => {
      openStream(reply, contentType, log, (response) => {
        if (first !== '') response.write(first)
        gateway.protocols.centrifugo.stream(response, format, text, reply.request.ip)
      })
    }
  const events = begin('text/event-stream; charset=utf-8', sdkEventStreamFrames, '\r\n')
  const lines = begin('application/x-ndjson; charset=utf-8', sdkLineFrames, '')
  stream('/connection/sse', 'GET', events)
  stream('/connection/sse', 'POST', events)
  stream('/connection/http_stream', 'POST', lines)
  routeAll({
    url: '/connection/http_stream',
    method: 'GET',
    async handler(_request, reply) {
      reply.header('allow', 'POST')
      throw new errors.MethodNotAllowed('POST')
    }
  })

  routeAll({
    url: '/emulation',
    method: 'POST',
    preValidation: admit,
    async handler(request, reply) {
      const { session, node, data } = readCommands(request.body)
      if (!(await gateway.protocols.centrifugo.receive(session, node, data))) throw new errors.NoSuchSession()
      return reply.code(204).send()
    }
  })
}

/** @throws BadQuery (400), which does not contain the body, because that has a secret */
function readCommands(body: unknown): { session: string; node: string; data: string } {
  let value: unknown
  try {
    value = JSON.parse(String(body))
  } catch {
    throw new errors.BadQuery('the body must be JSON')
  }
  const { session, node, data } = isObject(value) ? value : {}
  if (!isText(session) || !isText(node) || !isText(data)) {
    throw new errors.BadQuery('the body must be an object with the strings "session", "node" and "data"')
  }
  return { session, node, data }
}

function bodyOf({ body }: FastifyRequest): string | undefined {
  return typeof body === 'string' ? body : undefined
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}
