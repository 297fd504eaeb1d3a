// The plugin with durable channels. Every channel has a retention of an hour.
import Fastify from 'fastify'
import pg from 'pg'
import { built } from '../built.js'

const { default: pgWebsockets } = await built('index.js')

const dbUri = process.env.DB_URI
const fastify = Fastify()
fastify.register(pgWebsockets, { dbUri, jwtSecret: process.env.SECRET, migrate: true })
await fastify.ready()
const client = new pg.Client(dbUri)
await client.connect()
await client.query("select pgws.retain('**', '1 hour')")
await client.end()
await fastify.listen({ port: 0, host: '127.0.0.1', backlog: 4096 })
process.send({ port: fastify.server.address().port })
