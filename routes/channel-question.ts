import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Token } from '../lib/auth/index.js'
import type { Gateway } from '../lib/gateway.js'

/** The parameters of an address. */
export type ReadQuery = Partial<Record<string, string>>

/** What a token that may read a channel may ask about it. */
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
