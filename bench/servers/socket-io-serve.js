// A Socket.IO server. A socket joins the room in its address. Its messages go there, or to `to`.
import { createServer } from 'node:http'
import pg from 'pg'
import { Server } from 'socket.io'

/** @param createAdapter creates the measured adapter */
export async function serve(createAdapter) {
  const application_name = `socket.io ${process.pid}`
  const pool = new pg.Pool({ connectionString: process.env.DB_URI, max: 10, application_name })
  await pool.query(
    'create table if not exists socket_io_attachments (id bigserial unique, created_at timestamptz default now(), payload bytea)'
  )
  const http = createServer()
  const io = new Server(http, {
    adapter: createAdapter(pool, { errorHandler: (error) => console.error(error) }),
    transports: ['websocket']
  })
  io.on('connection', (socket) => {
    const { channel, to = channel } = socket.handshake.query
    socket.join(channel)
    socket.on('message', (text) => io.to(to).emit('message', text))
  })
  // The adapter does not report that it listens.
  const listens = "select from pg_stat_activity where application_name = $1 and query like 'LISTEN%'"
  while ((await pool.query(listens, [application_name])).rowCount === 0)
    await new Promise((resolve) => setTimeout(resolve, 20))
  http.listen(0, '127.0.0.1', () => process.send({ port: http.address().port }))
}
