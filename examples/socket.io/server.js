// Starts a database and two nodes, each a process of its own.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { embedded } from 'fastify-pg-websockets/testing'

const { PGWS_DB_URI, DATABASE_URL, PORT = '3000' } = process.env
const dbUri = PGWS_DB_URI ?? DATABASE_URL
const database = dbUri ? undefined : await embedded.start()
const first = Number(PORT)

const nodes = [first, first && first + 1].map((port) =>
  fork(join(import.meta.dirname, 'node.js'), {
    env: { ...process.env, DATABASE_URL: dbUri ?? database.url, PORT: String(port) }
  })
)
const ended = Promise.all(nodes.map((node) => once(node, 'exit')))

const stop = () => {
  for (const node of nodes) if (node.connected) node.disconnect()
}
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, stop)
// A node that ends by itself takes the other with it.
for (const node of nodes) node.once('exit', stop)
const codes = (await ended).map(([code]) => code)
await database?.stop()
process.exitCode = codes.every((code) => code === 0) ? 0 : 1
