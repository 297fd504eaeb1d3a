import { join } from 'node:path'
import fastifyCookie from '@fastify/cookie'
import fastifyJwt from '@fastify/jwt'
import fastifySession from '@fastify/session'
import fastifyStatic from '@fastify/static'
import Fastify from 'fastify'
import pgWebsockets from 'fastify-pg-websockets'
import { verifyUser } from './users.js'

const credentials = {
  type: 'object',
  required: ['name', 'password'],
  properties: { name: { type: 'string', maxLength: 64 }, password: { type: 'string', maxLength: 256 } }
}

/** The application, which does not listen yet. */
export async function buildApp({ dbUri, jwtSecret, sessionSecret, ...options }) {
  const fastify = Fastify(options)
  await fastify.register(fastifyCookie)
  // Sessions are kept in memory. For several processes, pass a `store`.
  await fastify.register(fastifySession, {
    secret: sessionSecret,
    saveUninitialized: false,
    // `lax`: requests of other sites that change something come without the cookie.
    cookie: { secure: 'auto', sameSite: 'lax', maxAge: 8 * 3_600_000 }
  })
  await fastify.register(fastifyJwt, { secret: jwtSecret })
  // Others see who sent a message, and none of the other claims.
  await fastify.register(pgWebsockets, {
    dbUri,
    jwtSecret,
    envelopeClaims: 'sub',
    presenceChannels: 'room:*'
  })
  await fastify.register(fastifyStatic, {
    root: [join(import.meta.dirname, 'public'), join(import.meta.dirname, 'node_modules/centrifuge/dist')]
  })

  fastify.post('/login', { schema: { body: credentials } }, async (request, reply) => {
    const user = await verifyUser(request.body.name, request.body.password)
    if (!user) return reply.code(401).send({ error: 'The name or the password is wrong.' })
    // A new id, so that nobody who knew the old one is logged in, too.
    await request.session.regenerate()
    request.session.user = user
    return user
  })

  fastify.post('/logout', async (request, reply) => {
    const { user } = request.session
    await request.session.destroy()
    // The token is valid for some minutes more, but what is open ends now.
    if (user) await fastify.pgws.disconnect({ subject: user.name }, { code: 4001, reason: 'logged out' })
    return reply.code(204).send()
  })

  // Who is logged in. The page asks first.
  fastify.get('/me', async ({ session: { user } }, reply) => user ?? reply.code(401).send())

  // A token allows the user's rooms for ten minutes. The SDK fetches the next one by itself.
  fastify.get('/token', async ({ session: { user } }, reply) => {
    if (!user) return reply.code(401).send()
    const channels = user.rooms.map((room) => `room:${room}`)
    return fastify.jwt.sign({ sub: user.name, mode: 'rw', channels }, { expiresIn: '10m' })
  })

  return fastify
}
