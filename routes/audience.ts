import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Access, TokenIdentity } from '../lib/auth/index.js'
import { audienceChannel, audiencesOf, checkAudiences, DEFAULT_AUDIENCE } from '../lib/channels/index.js'
import { type AudienceEndpoint, isAllowedOrigin, type ResolvedOptions } from '../lib/config/index.js'
import { errors } from '../lib/errors.js'
import type { Gateway } from '../lib/gateway.js'
import type { VerifyToken } from '../plugins/jwt.js'
import { upgradeOf } from '../plugins/upgrades.js'
import type { WebSockets } from '../plugins/websocket.js'
import { findToken } from './handshake/credentials.js'
import { remoteOf } from './remote.js'
import { webSocketRoute } from './websocket-route.js'

export interface AudienceRoutesOptions {
  gateway: Gateway
  verifyToken: VerifyToken
  webSockets: WebSockets
  options: Pick<ResolvedOptions, 'allowedOrigins' | 'tokenCookie' | 'endpoints'>
}

/**
 * Endpoints as in pgws. Each has a path and database channels. The audiences are decided for each request.
 */
export function audienceRoutes(
  fastify: FastifyInstance,
  { gateway, verifyToken, webSockets, options }: AudienceRoutesOptions
): void {
  for (const [index, endpoint] of options.endpoints.entries()) {
    webSocketRoute(fastify, {
      url: endpoint.path,
      gateway,
      transport: 'websocket',
      webSockets,
      describeRequest: ({ ip }) => ({ url: fastify.prefix + endpoint.path, ip }),
      async admit(request) {
        if (gateway.closing) throw new errors.ShuttingDown()
        if (!isAllowedOrigin(request.headers.origin, options.allowedOrigins)) {
          throw new errors.OriginNotAllowed()
        }
        const { audiences, ...identity } = await audiencesFor(request, endpoint)
        await gateway.admit(upgradeOf(request.raw)!.socket, request.ip)
        const channels = audiences.map((audience) => audienceChannel(index, audience))
        request.pgwsAccess = {
          expiresAt: undefined,
          ...identity,
          channels,
          read: true,
          write: false,
          claims: {}
        }
      },
      connect: (accepted, request) =>
        gateway.protocols.webSockets.connect(accepted, request.pgwsAccess!, remoteOf(request))
    })
  }

  async function audiencesFor(
    request: FastifyRequest,
    endpoint: AudienceEndpoint
  ): Promise<{ audiences: readonly string[] } & Partial<Pick<Access, 'expiresAt'>> & TokenIdentity> {
    if (endpoint.audiences !== undefined) {
      try {
        return { audiences: checkAudiences(await endpoint.audiences(request)) }
      } catch (error) {
        if (error instanceof errors.NoAudience) throw error
        request.log.warn({ err: error }, 'the function "audiences" of an endpoint failed')
        throw new errors.NoAudience()
      }
    }
    const token = findToken(request, options.tokenCookie)
    if (token === undefined && endpoint.public) {
      return { audiences: [DEFAULT_AUDIENCE] }
    }
    if (token === undefined) throw new errors.InvalidToken('the token is missing')
    const { claims, expiresAt, subject, id: tokenId, issuedAt } = await verifyToken(token)
    return {
      audiences: audiencesOf(claims, endpoint.public === true),
      expiresAt,
      subject,
      tokenId,
      issuedAt
    }
  }
}
