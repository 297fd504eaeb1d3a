// Starts a database, a nats-server, and three nodes, each a process of its own.
import { fork, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { embedded } from 'fastify-pg-websockets/testing'

/** How long NATS stays away after you have killed it, in milliseconds. */
const AWAY = 5000

const { PGWS_DB_URI, DATABASE_URL, PORT = '3000', JWT_SECRET = randomBytes(32).toString('hex') } = process.env
const dbUri = PGWS_DB_URI ?? DATABASE_URL
const busPort = await freePort()
let nats = startNats()
const database = dbUri ? undefined : await embedded.start()
const first = Number(PORT)

const nodes = []
for (const index of [0, 1, 2]) {
  const node = fork(join(import.meta.dirname, 'node.js'), {
    env: {
      ...process.env,
      DATABASE_URL: dbUri ?? database.url,
      JWT_SECRET,
      BUS: `nats://127.0.0.1:${busPort}`,
      PORT: String(first && first + index)
    }
  })
  nodes.push(node)
  // The first one installs the schema.
  await Promise.race([once(node, 'message'), once(node, 'exit')])
}
const ended = Promise.all(nodes.map((node) => node.exitCode ?? once(node, 'exit')))

let stopping = false
const stop = () => {
  stopping = true
  for (const node of nodes) if (node.connected) node.disconnect()
}
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, stop)
// A node that ends by itself takes the others with it.
for (const node of nodes) node.once('exit', stop)
await ended
nats.kill('SIGTERM')
await database?.stop()
process.exitCode = nodes.every(({ exitCode }) => exitCode === 0) ? 0 : 1

/** Starts nats-server, and again some seconds after it has ended. */
function startNats() {
  // Detached, because Ctrl-C would reach it before the nodes.
  const child = spawn('nats-server', ['-a', '127.0.0.1', '-p', String(busPort)], {
    stdio: 'ignore',
    detached: true
  })
  child.once('error', ({ message }) => console.error(`nats-server must be installed: ${message}`))
  child.once('spawn', () => console.log(`nats-server has the process id ${child.pid}`))
  child.once('exit', async () => {
    if (stopping) return
    console.log(`nats-server is away for ${AWAY / 1000} s. Messages arrive all the same, a little later.`)
    await sleep(AWAY, undefined, { ref: false })
    if (!stopping) nats = startNats()
  })
  return child
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}
