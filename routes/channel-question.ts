import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Token } from '../lib/auth/index.js'
import type { Gateway } from '../lib/gateway.js'

/** The parameters of an address. */
export type ReadQuery = Partial<Record<string, string>>

/** A request about a channel, for tokens that may read the channel. */
export interface ChannelQuestion {
  schema: { summary: string; querystring?: object; response: object }
  answer: (
    gateway: Gateway,
    channel: string,
    request: FastifyRequest<{ Querystring: ReadQuery }>,
    reply: FastifyReply,
    token: Token
  ) => unknown
}
