import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { authorize } from '../lib/auth/index.js'
import { checkChannel } from '../lib/channel-name.js'
import { errors } from '../lib/errors.js'
import type { Gateway } from '../lib/gateway.js'
import type { VerifyToken } from '../plugins/jwt.js'
import type { ChannelQuestion, ReadQuery } from './channel-question.js'
import { verifyBearer } from './handshake/bearer.js'
import { history } from './history.js'
import { checkQuery } from './known.js'
import { presence } from './presence.js'
import { bearer, HIDDEN } from './schemas.js'

const reads = new Map<string, ChannelQuestion>([
  ['history', history],
  ['presence', presence]
])

/** `GET /channels/:channel/history` and `GET /channels/:channel/presence`. */
export function channelReadRoutes(
  fastify: FastifyInstance,
  { gateway, verifyToken }: { gateway: Gateway; verifyToken: VerifyToken }
): void {
  const validatorCompiler = () => () => true

  async function answer(
    read: ChannelQuestion,
    channel: string,
    request: FastifyRequest<{ Querystring: ReadQuery }>,
    reply: FastifyReply
  ) {
    const token = await verifyBearer(request, verifyToken)
    if (channel === '') throw new errors.NotFound()
    checkChannel(channel, 'the channel of the address')
    if (!authorize(token, [channel]).read) throw new errors.ReadNotAllowed()
    await gateway.authorize(token, [channel], 'r')
    checkQuery(request, read.schema.querystring ?? {})
    return read.answer(gateway, channel, request, reply, token)
  }

  for (const [name, read] of reads) {
    fastify.get<{ Params: { channel: string }; Querystring: ReadQuery }>(
      `/channels/:channel/${name}`,
      { schema: { tags: ['channels'], security: bearer, ...read.schema }, validatorCompiler },
      (request, reply) => answer(read, request.params.channel, request, reply)
    )
  }
  // A parameter must not be longer than the host's maxParamLength, or contain a slash. A wildcard may.
  fastify.get<{ Params: { '*': string }; Querystring: ReadQuery }>(
    '/channels/*',
    { schema: HIDDEN, validatorCompiler },
    async (request, reply) => {
      const { '*': path } = request.params
      const slash = path.lastIndexOf('/')
      const read = reads.get(path.slice(slash + 1))
      if (slash < 1 || read === undefined) throw new errors.NotFound()
      return answer(read, path.slice(0, slash), request, reply)
    }
  )
}
