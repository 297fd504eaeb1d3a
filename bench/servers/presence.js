// The plugin, tracking the members of channels.
import Fastify from 'fastify'
import { built } from '../built.js'

const { default: pgWebsockets } = await built('index.js')

const fastify = Fastify()
fastify.register(pgWebsockets, {
  dbUri: process.env.DB_URI,
  jwtSecret: process.env.SECRET,
  presenceChannels: 'room-**'
})
await fastify.listen({ port: 0, host: '127.0.0.1', backlog: 4096 })
process.send({ port: fastify.server.address().port })
