// Starts a database, three nodes, each a process of its own, and nginx in front of them.
import { fork, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { embedded } from 'fastify-pg-websockets/testing'

const { PGWS_DB_URI, DATABASE_URL, PORT = '3000' } = process.env
const dbUri = PGWS_DB_URI ?? DATABASE_URL
const database = dbUri ? undefined : await embedded.start()

const env = {
  ...process.env,
  DATABASE_URL: dbUri ?? database.url,
  JWT_SECRET: process.env.JWT_SECRET ?? randomBytes(32).toString('hex')
}
const nodes = [1, 2, 3].map(() => fork(join(import.meta.dirname, 'node.js'), { env }))
const ended = nodes.map((node) => once(node, 'exit'))
// Each sends the port that it listens on.
const servers = (await Promise.all(nodes.map((node) => once(node, 'message')))).map(
  ([port]) => `server 127.0.0.1:${port};`
)

const port = Number(PORT) || (await freePort())
const folder = mkdtempSync(join(tmpdir(), 'nginx-'))
// nginx's workers belong to another user if root starts it.
chmodSync(folder, 0o755)
const configuration = readFileSync(join(import.meta.dirname, 'nginx.conf'), 'utf8')
writeFileSync(
  join(folder, 'nginx.conf'),
  configuration.replace('$PORT', port).replace('$NODES', servers.join('\n    '))
)
// Detached, because Ctrl-C would reach it before the nodes have said goodbye to their clients.
const nginx = spawn('nginx', ['-p', folder, '-c', 'nginx.conf', '-e', 'stderr'], {
  stdio: ['ignore', 'inherit', 'inherit'],
  detached: true
})
nginx.on('error', ({ message }) => console.error(`nginx must be installed: ${message}`))

let stopping = false
async function stop() {
  if (stopping) return
  stopping = true
  for (const node of nodes) if (node.connected) node.disconnect()
  await Promise.all(ended)
  nginx.kill('SIGTERM')
}
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, stop)
nginx.once('close', async (code) => {
  process.exitCode = code === 0 ? 0 : 1
  await stop()
  await database?.stop()
  rmSync(folder, { recursive: true, force: true })
})
console.log(`Open http://127.0.0.1:${port} (nodes ${nodes.map(({ pid }) => pid).join(', ')})`)

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}
