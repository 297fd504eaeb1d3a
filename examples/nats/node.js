import { join } from 'node:path'
import fastifyJwt from '@fastify/jwt'
import fastifyStatic from '@fastify/static'
import Fastify from 'fastify'
import pgWebsockets from 'fastify-pg-websockets'

const { DATABASE_URL: dbUri, JWT_SECRET: jwtSecret, BUS: bus, PORT: port } = process.env

const fastify = Fastify({ logger: { level: 'warn' } })
// Ctrl-C reaches all processes. server.js, which has started this one, says when to end, or is gone.
process.on('SIGINT', () => {})
process.once('disconnect', () => fastify.close())

await fastify.register(fastifyJwt, { secret: jwtSecret })
// Each node hears the channels of its own clients from NATS. What is stored is in the database, in the schema "pgws".
await fastify.register(pgWebsockets, { dbUri, jwtSecret, bus, migrate: true })
await fastify.register(fastifyStatic, {
  root: [join(import.meta.dirname, 'public'), join(import.meta.dirname, 'node_modules/centrifuge/dist')]
})
fastify.get('/token', async () =>
  fastify.jwt.sign({ sub: 'visitor', mode: 'rw', channels: ['chat'] }, { expiresIn: '10m' })
)
await fastify.listen({ port: Number(port), host: '127.0.0.1' })
console.log(`Open http://127.0.0.1:${fastify.server.address().port} (node ${process.pid})`)
process.send('ready')
