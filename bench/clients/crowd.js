// Sockets that ignore what they receive, in a process of their own. On request, all reconnect at once.
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'

let sockets = []

function open(port, path) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.write(
        `GET ${path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nSec-WebSocket-Version: 13\r\n\r\n`
      )
    })
    socket.on('error', reject)
    let open = false
    socket.on('data', (chunk) => {
      // A ping has two bytes. Its pong must be masked (RFC 6455, section 5.5.3).
      if (open && chunk[0] === 0x89) return socket.write(Buffer.from([0x8a, 0x80, 0, 0, 0, 0]))
      if (open) return
      if (!chunk.toString('latin1').startsWith('HTTP/1.1 101')) return reject(new Error(chunk.toString()))
      open = true
      resolve(socket)
    })
  })
}

process.on('message', async ({ port, paths, atOnce = 50 }) => {
  for (const socket of sockets) socket.destroy()
  sockets = []
  for (let i = 0; i < paths.length; i += atOnce) {
    sockets.push(...(await Promise.all(paths.slice(i, i + atOnce).map((path) => open(port, path)))))
  }
  process.send({ open: sockets.length })
})
process.on('disconnect', () => process.exit())
