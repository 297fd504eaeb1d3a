import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fastifyJwt from '@fastify/jwt'
import fastifyPostgres from '@fastify/postgres'
import fastifyStatic from '@fastify/static'
import Fastify from 'fastify'
import pgWebsockets from 'fastify-pg-websockets'
import { embedded } from 'fastify-pg-websockets/testing'

const { PGWS_DB_URI, DATABASE_URL, PORT = '3000' } = process.env
const givenUri = PGWS_DB_URI ?? DATABASE_URL
const database = givenUri ? undefined : await embedded.start()
const dbUri = givenUri ?? database.url
const jwtSecret = randomBytes(32).toString('hex')

const fastify = Fastify()
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    await fastify.close()
    await database?.stop()
  })
}

await fastify.register(fastifyPostgres, { connectionString: dbUri })
// Without a listener, an idle connection that the database ends would end this process, too.
fastify.pg.pool.on('error', ({ message }) => console.error(message))
await fastify.register(fastifyJwt, { secret: jwtSecret })
// `migrate` creates the schema "pgws", which schema.sql uses.
await fastify.register(pgWebsockets, { dbUri, jwtSecret, migrate: true })
await fastify.register(fastifyStatic, {
  root: [join(import.meta.dirname, 'public'), join(import.meta.dirname, 'node_modules/centrifuge/dist')]
})

fastify.get('/orders', async () => {
  const { rows } = await fastify.pg.query('select id, item, state from orders order by id')
  return rows
})

const order = {
  type: 'object',
  required: ['item'],
  properties: { item: { type: 'string', minLength: 1, maxLength: 100 } }
}
fastify.post('/orders', { schema: { body: order } }, async ({ body }, reply) => {
  await fastify.pg.query('insert into orders (item) values ($1)', [body.item])
  return reply.code(201).send()
})

const change = {
  params: { type: 'object', properties: { id: { type: 'integer', minimum: 1, maximum: 2 ** 31 - 1 } } },
  body: {
    type: 'object',
    required: ['state'],
    properties: { state: { enum: ['new', 'paid', 'shipped'] } }
  }
}
fastify.patch('/orders/:id', { schema: change }, async ({ params, body }, reply) => {
  const { rowCount } = await fastify.pg.query('update orders set state = $2 where id = $1', [
    params.id,
    body.state
  ])
  return reply.code(rowCount ? 204 : 404).send()
})

// Everybody may see these orders. Where only some may, ask for a login first (see the example "sessions").
fastify.get('/token', async () =>
  fastify.jwt.sign({ sub: 'visitor', mode: 'r', channels: ['orders'] }, { expiresIn: '10m' })
)

await fastify.ready()
await fastify.pg.query(readFileSync(join(import.meta.dirname, 'schema.sql'), 'utf8'))
console.log(`Open ${await fastify.listen({ port: Number(PORT) })}`)
console.log(`Change orders with SQL, too: psql '${dbUri}'`)
