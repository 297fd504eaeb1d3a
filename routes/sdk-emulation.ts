import type { FastifyInstance, FastifyRequest, RouteOptions } from 'fastify'
import { isAllowedOrigin, type ResolvedOptions } from '../lib/config/index.js'
import { errors, messageOf } from '../lib/errors.js'
import type { Gateway } from '../lib/gateway.js'
import { isObject } from '../lib/json-value.js'
import {
  DISCONNECT,
  type Encoding,
  readEmulationRequest,
  SDK_FORMATS,
  type SdkFormat
} from '../lib/protocols/centrifugo/index.js'
import { queryOf } from './handshake/address.js'
import { refused } from './handshake/admit.js'
import { describeRequestAs } from './handshake/request-log.js'
import { CONSTRAINT } from './handshake/router-constraint.js'
import { remoteOf } from './remote.js'
import { HIDDEN } from './schemas.js'
import { encodingOf, PROTOBUF_TYPE } from './sdk-encoding.js'
import { openStream, requireTurn } from './stream.js'

export interface SdkEmulationOptions {
  gateway: Gateway
  options: Pick<ResolvedOptions, 'allowedOrigins' | 'maxMessageBytes'>
}

/** What an address answers to clients of an encoding. */
interface Answer {
  contentType: string
  format: SdkFormat
  /** The text before the first reply. */
  first?: string
  /** What commands look like, for errors. */
  commands: string
}

const EVENTS: Answer = {
  contentType: 'text/event-stream; charset=utf-8',
  format: SDK_FORMATS.eventStream.json,
  first: '\r\n',
  commands: 'one JSON object per line'
}
const LINES: Answer = {
  contentType: 'application/x-ndjson; charset=utf-8',
  format: SDK_FORMATS.httpStream.json,
  commands: 'one JSON object per line'
}
const PROTOBUF: Answer = {
  contentType: PROTOBUF_TYPE,
  format: SDK_FORMATS.httpStream.protobuf,
  commands: 'each with its length before it'
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
  // The SDK sends lines of JSON as application/json, and protobuf as application/octet-stream.
  fastify.removeAllContentTypeParsers()
  fastify.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))

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

  function stream(url: string, method: 'GET' | 'POST', answers: Partial<Record<Encoding, Answer>>) {
    routeAll({
      url,
      method,
      onError: refused(gateway, url === '/connection/sse' ? 'sdk-sse' : 'sdk-http-stream', describeRequest),
      async preValidation(request, reply) {
        requireTurn(reply)
        await admit(request)
      },
      async handler(request, reply) {
        const answer = answers[encodingOf(request)]
        // After an error status the SDK would retry forever. This reply makes it stop, as the close code does.
        if (answer === undefined) {
          const push = { disconnect: DISCONNECT.INAPPROPRIATE_PROTOCOL }
          return reply.type(PROTOBUF_TYPE).send(PROTOBUF.format.reply({ push }))
        }
        const { contentType, format, first = '' } = answer
        const commands = method === 'GET' ? parameterOf(request) : bodyOf(request)
        if (commands.length === 0) {
          const place = method === 'GET' ? 'the parameter "cf_connect"' : 'the body'
          throw new errors.BadQuery(`${place} must contain commands, ${answer.commands}`)
        }
        await gateway.admit(reply.raw, request.ip)
        openStream(reply, contentType, log, (response) => {
          if (first !== '') response.write(first)
          gateway.protocols.centrifugo.stream(response, format, commands, remoteOf(request))
        })
        return reply
      }
    })
  }

  stream('/connection/sse', 'GET', { json: EVENTS })
  stream('/connection/sse', 'POST', { json: EVENTS })
  stream('/connection/http_stream', 'POST', { json: LINES, protobuf: PROTOBUF })
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
      const { session, node, data } = readCommands(bodyOf(request), encodingOf(request))
      if (!(await gateway.protocols.centrifugo.receive(session, node, data))) throw new errors.NoSuchSession()
      return reply.code(204).send()
    }
  })
}

/** @throws BadQuery (400), which does not contain the body, because that has a secret */
function readCommands(body: Buffer, encoding: Encoding): { session: string; node: string; data: Buffer } {
  const { session, node, data } = encoding === 'json' ? readJson(body) : readProtobuf(body)
  const commands = typeof data === 'string' ? Buffer.from(data) : data
  if (!isText(session) || !isText(node) || !Buffer.isBuffer(commands) || commands.length === 0) {
    throw new errors.BadQuery('the body must be an object with the strings "session", "node" and "data"')
  }
  return { session, node, data: commands }
}

function readJson(body: Buffer): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(body.toString())
  } catch {
    throw new errors.BadQuery('the body must be JSON')
  }
  return isObject(value) ? value : {}
}

function readProtobuf(body: Buffer): Record<string, unknown> {
  try {
    return readEmulationRequest(body)
  } catch (error) {
    throw new errors.BadQuery(`the body must be an EmulationRequest in protobuf: ${messageOf(error)}`)
  }
}

function parameterOf({ raw }: FastifyRequest): Buffer {
  return Buffer.from(queryOf(raw.url!).get('cf_connect') ?? '')
}

function bodyOf({ body }: FastifyRequest): Buffer {
  return Buffer.isBuffer(body) ? body : Buffer.alloc(0)
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}
