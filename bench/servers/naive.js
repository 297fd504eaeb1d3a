// A first attempt: one `ws.send` for each socket and message, one query for each sent message.
import pg from 'pg'
import { WebSocketServer } from 'ws'

const pool = new pg.Pool({ connectionString: process.env.DB_URI, max: 10 })
const listener = new pg.Client({ connectionString: process.env.DB_URI })
await listener.connect()
const channels = new Map()
const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
server.on('connection', (webSocket, request) => {
  const channel = decodeURIComponent(request.url.split('/')[1])
  if (!channels.has(channel)) channels.set(channel, new Set())
  channels.get(channel).add(webSocket)
  webSocket.on('close', () => channels.get(channel).delete(webSocket))
  webSocket.on('message', (data) => {
    const envelope = { event: 'WebsocketMessage', channel, payload: String(data), claims: {} }
    pool.query('select pg_notify($1, $2)', [process.env.LISTEN_CHANNEL, JSON.stringify(envelope)])
  })
})
listener.on('notification', ({ payload }) => {
  const { channel } = JSON.parse(payload)
  for (const webSocket of channels.get(channel) ?? []) webSocket.send(payload)
})
await listener.query(`listen "${process.env.LISTEN_CHANNEL}"`)
process.send({ port: server.address().port })
