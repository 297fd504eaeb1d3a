// A node of a cluster: the plugin with its schema. BUS is the address of a NATS server; without it, PostgreSQL is the bus.
import Fastify from 'fastify'
import { built } from '../built.js'

const { default: pgWebsockets } = await built('index.js')

const { BUS, BUS_PREFIX } = process.env
const fastify = Fastify()
fastify.register(pgWebsockets, {
  dbUri: process.env.DB_URI,
  jwtSecret: process.env.SECRET,
  migrate: true,
  ...(BUS === undefined ? {} : { bus: BUS, busPrefix: BUS_PREFIX })
})
await fastify.listen({ port: 0, host: '127.0.0.1' })
process.send({ port: fastify.server.address().port })
