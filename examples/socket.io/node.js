import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { createAdapter } from 'fastify-pg-websockets/socket.io'
import pg from 'pg'
import { Server } from 'socket.io'

const { DATABASE_URL, PORT } = process.env
const page = readFileSync(join(import.meta.dirname, 'public/index.html'))
const script = readFileSync(join(import.meta.dirname, 'public/page.js'))

const httpServer = createServer((request, response) => {
  if (request.url === '/') response.setHeader('content-type', 'text/html').end(page)
  else if (request.url === '/page.js') response.setHeader('content-type', 'text/javascript').end(script)
  else response.writeHead(404).end()
})
const pool = new pg.Pool({ connectionString: DATABASE_URL })
pool.on('error', (error) => console.error(error.message))
const io = new Server(httpServer, {
  adapter: createAdapter(pool),
  // Without long polling, a load balancer needs no sticky sessions.
  transports: ['websocket'],
  // A client that reconnects to any of the nodes receives what it missed.
  connectionStateRecovery: { maxDisconnectionDuration: 120_000 }
})

io.on('connection', (socket) => {
  socket.on('message', (text) => {
    // What a client sends is checked: this node shares its events with all others.
    if (typeof text !== 'string' || text.length > 1_000) return
    io.emit('message', { text, node: process.pid })
  })
})

// Ctrl-C reaches all processes. server.js, which has started this one, says when to end, or is gone.
process.on('SIGINT', () => {})
process.once('disconnect', async () => {
  // Closes the HTTP server and the adapter, too.
  await io.close()
  await pool.end()
})
httpServer.listen(Number(PORT), '127.0.0.1')
await once(httpServer, 'listening')
console.log(`Open http://127.0.0.1:${httpServer.address().port} (node ${process.pid})`)
