import { randomBytes } from 'node:crypto'
import { embedded } from 'fastify-pg-websockets/testing'
import { buildApp } from './app.js'

const { PGWS_DB_URI, DATABASE_URL, JWT_SECRET, SESSION_SECRET, PORT = '3000' } = process.env
const dbUri = PGWS_DB_URI ?? DATABASE_URL
const database = dbUri ? undefined : await embedded.start()
const secret = () => randomBytes(32).toString('hex')

const app = await buildApp({
  dbUri: dbUri ?? database.url,
  // Random secrets: after a restart, users log in again.
  jwtSecret: JWT_SECRET ?? secret(),
  sessionSecret: SESSION_SECRET ?? secret()
})
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    await app.close()
    await database?.stop()
  })
}
console.log(`Open ${await app.listen({ port: Number(PORT) })} (alice / alice-demo, bob / bob-demo)`)
