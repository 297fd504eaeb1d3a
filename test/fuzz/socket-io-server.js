// A Socket.IO server with our adapter, whose clients may open namespaces of their own.
import { createServer } from 'node:http'
import pg from 'pg'
import { Server } from 'socket.io'
import { createAdapter } from '../../dist/socket.io.js'

const pool = new pg.Pool({ connectionString: process.env.DB_URI, max: 4 })
pool.on('error', () => {})
const http = createServer()
const io = new Server(http, {
  adapter: createAdapter(pool, { errorHandler: (error) => console.error(error) }),
  connectionStateRecovery: { maxDisconnectionDuration: 10_000 },
  cleanupEmptyChildNamespaces: true
})
io.of(/^\/any/)
http.listen(0, '127.0.0.1')
