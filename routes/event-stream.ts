import type { FastifyInstance, RouteOptions } from 'fastify'
import { handshake, refused } from './handshake/admit.js'
import { ADDRESSES, type ChannelRoutesOptions } from './handshake/channel-addresses.js'
import { CONSTRAINT } from './handshake/router-constraint.js'
import { remoteOf } from './remote.js'
import { HIDDEN } from './schemas.js'
import { openStream, requireTurn } from './stream.js'

/**
 * Server-sent events at the same addresses as websockets, for `GET` with `Accept: text/event-stream`
 * (https://html.spec.whatwg.org/multipage/server-sent-events.html).
 */
export function eventStreamRoutes(
  fastify: FastifyInstance,
  { gateway, verifyToken, options, paths }: ChannelRoutesOptions
): void {
  fastify.decorateRequest('pgwsAccess', null)
  const { admit, describeRequest, joinOptionsOf } = handshake(fastify, { gateway, verifyToken, options })
  const log = { error: fastify.log.error.bind(fastify.log), describeRequest }
  const route = {
    method: 'GET',
    exposeHeadRoute: false,
    constraints: { [CONSTRAINT]: 'events' },
    schema: HIDDEN,
    logLevel: 'warn',
    logSerializers: { req: describeRequest },
    onError: refused(gateway, 'event-stream', describeRequest),
    async preValidation(request, reply) {
      requireTurn(reply)
      await admit(request, reply.raw)
    },
    handler(request, reply) {
      openStream(reply, 'text/event-stream; charset=utf-8', log, (response) => {
        gateway.protocols.eventStreams.stream(
          response,
          request.pgwsAccess!,
          remoteOf(request),
          joinOptionsOf(request)
        )
      })
    }
  } satisfies Omit<RouteOptions, 'url'>
  for (const url of new Set([...ADDRESSES, ...paths])) fastify.route({ ...route, url })
}
