// Sockets that write as fast as possible, and one that checks that every message arrives in the order of its sender.
import { once } from 'node:events'
import { WebSocket } from 'ws'

/** Opens a socket. One of Socket.IO first joins its namespace. */
async function open({ port, path, socketIo }) {
  const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`)
  await once(socket, 'open')
  if (socketIo) {
    const joined = new Promise((resolve) => {
      socket.on('message', (data) => String(data).startsWith('40{') && resolve())
    })
    socket.send('40')
    await joined
  }
  return socket
}

process.on(
  'message',
  async ({ port, readerPort = port, writers, messages, writePath, readPath, socketIo }) => {
    const reader = await open({ port: readerPort, path: readPath, socketIo })
    const next = Array(writers).fill(0)
    let seen = 0
    let failure
    reader.on('close', () => {
      failure ??= 'the reader was closed'
    })
    reader.on('message', (data) => {
      const text = String(data)
      if (socketIo && !text.startsWith('42')) return
      const payload = socketIo ? JSON.parse(text.slice(2))[1] : JSON.parse(text).payload
      const [writer, number] = payload.split(' ').map(Number)
      if (number !== next[writer]) failure ??= `writer ${writer}: ${number} instead of ${next[writer]}`
      next[writer] = number + 1
      if (++seen === writers * messages)
        process.send({ seen, failure, seconds: (performance.now() - begun) / 1000 })
    })
    const sockets = await Promise.all(
      Array.from({ length: writers }, () => open({ port, path: writePath, socketIo }))
    )
    const begun = performance.now()
    const padding = 'x'.repeat(100)
    await Promise.all(
      sockets.map(async (socket, writer) => {
        for (let number = 0; number < messages; number++) {
          const text = `${writer} ${number} ${padding}`
          socket.send(socketIo ? `42${JSON.stringify(['message', text])}` : text)
          // What the server does not read waits at the writer. A benchmark must wait for it.
          while (socket.bufferedAmount > 65536) await new Promise((resolve) => setTimeout(resolve, 1))
        }
      })
    )
  }
)
process.on('disconnect', () => process.exit())
