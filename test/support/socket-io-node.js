// A Socket.IO server in its own process, for tests that kill or close it.
import { createServer } from 'node:http'
import pg from 'pg'
import { Server } from 'socket.io'
import { createAdapter } from '../../dist/socket.io.js'

const pool = new pg.Pool({ connectionString: process.env.DB_URI })
const http = createServer()
const io = new Server(http, { adapter: createAdapter(pool, JSON.parse(process.env.OPTIONS)) })
http.listen(0, '127.0.0.1', () => process.send({ port: http.address().port }))
process.on('message', async (order) => {
  process.disconnect()
  if (order === 'pool first') await pool.end()
  await io.close()
  if (order !== 'pool first') await pool.end()
})
