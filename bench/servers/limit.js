// The limit of the machine: the least that a Node.js program must do. It ignores tokens, expects the channel's name at a fixed
// place, joins the frames of one turn once, and writes them to raw sockets.
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import pg from 'pg'

const listener = new pg.Client({ connectionString: process.env.DB_URI })
await listener.connect()
const channels = new Map()
const dirty = new Set()
let scheduled = false

const server = createServer()
server.on('upgrade', (request, socket) => {
  const accept = createHash('sha1')
    .update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
    .digest('base64')
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`
  )
  socket.setNoDelay()
  const name = request.url.split('/')[1]
  if (!channels.has(name)) channels.set(name, { sockets: new Set(), frames: [] })
  channels.get(name).sockets.add(socket)
  socket.on('error', () => {}).on('close', () => channels.get(name).sockets.delete(socket))
  socket.resume()
})

listener.on('notification', ({ payload }) => {
  const channel = channels.get(payload.slice(12, payload.indexOf('"', 12)))
  if (channel === undefined) return
  const length = Buffer.byteLength(payload)
  const frame = Buffer.allocUnsafe(4 + length)
  frame[0] = 0x81
  frame[1] = 126
  frame.writeUInt16BE(length, 2)
  frame.write(payload, 4)
  channel.frames.push(frame)
  dirty.add(channel)
  if (scheduled) return
  scheduled = true
  setImmediate(() => {
    scheduled = false
    for (const channel of dirty) {
      const joined = channel.frames.length === 1 ? channel.frames[0] : Buffer.concat(channel.frames)
      channel.frames = []
      for (const socket of channel.sockets) socket.write(joined)
    }
    dirty.clear()
  })
})
await listener.query(`listen "${process.env.LISTEN_CHANNEL}"`)
server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port }))
