// A bare `ws` server that only upgrades, and pings every 30 s.
import { createServer } from 'node:http'
import { WebSocketServer } from 'ws'

const http = createServer()
const server = new WebSocketServer({ server: http, perMessageDeflate: false })
server.on('connection', (webSocket) => {
  webSocket.on('error', () => {})
})
setInterval(() => {
  for (const webSocket of server.clients) webSocket.ping()
}, 30_000)
http.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => process.send({ port: http.address().port }))
