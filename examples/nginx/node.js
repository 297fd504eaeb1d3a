import { join } from 'node:path'
import fastifyJwt from '@fastify/jwt'
import fastifyStatic from '@fastify/static'
import Fastify from 'fastify'
import pgWebsockets from 'fastify-pg-websockets'

const { DATABASE_URL: dbUri, JWT_SECRET: jwtSecret } = process.env

// Limits by address apply to the clients, not to nginx.
const fastify = Fastify({ trustProxy: '127.0.0.1' })
// Ctrl-C reaches all processes. server.js, which has started this one, says when to end, or is gone.
process.on('SIGINT', () => {})
process.once('disconnect', () => fastify.close())

// Which node answers?
fastify.addHook('onSend', async (_request, reply) => {
  reply.header('x-node', process.pid)
})

await fastify.register(fastifyJwt, { secret: jwtSecret })
// All nodes have the same database and the same secret. They find each other through the database.
await fastify.register(pgWebsockets, { dbUri, jwtSecret })
await fastify.register(fastifyStatic, {
  root: [join(import.meta.dirname, 'public'), join(import.meta.dirname, 'node_modules/centrifuge/dist')]
})
fastify.get('/token', async () =>
  fastify.jwt.sign({ sub: 'visitor', mode: 'rw', channels: ['chat'] }, { expiresIn: '10m' })
)
await fastify.listen({ port: 0, host: '127.0.0.1' })
process.send(fastify.server.address().port)
