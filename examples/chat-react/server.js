import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import fastifyJwt from '@fastify/jwt'
import fastifyPostgres from '@fastify/postgres'
import fastifyStatic from '@fastify/static'
import { build } from 'esbuild'
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

// In your application, Vite or another bundler does this beforehand.
const { outputFiles } = await build({
  entryPoints: [join(import.meta.dirname, 'src/main.jsx')],
  bundle: true,
  format: 'esm',
  jsx: 'automatic',
  minify: true,
  define: { 'process.env.NODE_ENV': '"production"' },
  write: false
})
fastify.get('/main.js', async (_request, reply) =>
  reply.type('text/javascript').send(Buffer.from(outputFiles[0].contents))
)

await fastify.register(fastifyStatic, { root: join(import.meta.dirname, 'public') })
await fastify.register(fastifyPostgres, { connectionString: dbUri })
// Without a listener, an idle connection that the database ends would end this process, too.
fastify.pg.pool.on('error', ({ message }) => console.error(message))
await fastify.register(fastifyJwt, { secret: jwtSecret })
await fastify.register(pgWebsockets, {
  dbUri,
  jwtSecret,
  migrate: true,
  presenceChannels: 'room:*',
  // Others see who sent a message, and none of the other claims.
  envelopeClaims: 'sub'
})

// Whoever comes may choose a name. For users with passwords, see the example "sessions".
const visitor = {
  type: 'object',
  required: ['name'],
  properties: { name: { type: 'string', minLength: 1, maxLength: 32 } }
}
fastify.post('/token', { schema: { body: visitor } }, async ({ body }) =>
  fastify.jwt.sign({ sub: body.name, mode: 'rw', channels: ['room:lobby'] }, { expiresIn: '10m' })
)

await fastify.ready()
// Messages are kept for a day: a page shows the last ones, and misses none when it reconnects.
await fastify.pg.query("select pgws.retain('room:*', interval '1 day')")
console.log(`Open ${await fastify.listen({ port: Number(PORT) })}`)
