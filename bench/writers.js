// Fifty sockets that write as fast as they may, and one that reads and checks: every message, in its sender's order.
import { once } from 'node:events'
import { WebSocket } from 'ws'

process.on('message', async ({ port, writers, messages, writeToken, readToken }) => {
  const reader = new WebSocket(`ws://127.0.0.1:${port}/chat/${readToken}`)
  await once(reader, 'open')
  const next = Array(writers).fill(0)
  let seen = 0
  let failure
  reader.on('close', () => {
    failure ??= 'the reader was closed'
  })
  reader.on('message', (data) => {
    const [writer, number] = JSON.parse(data).payload.split(' ').map(Number)
    if (number !== next[writer]) failure ??= `writer ${writer}: ${number} instead of ${next[writer]}`
    next[writer] = number + 1
    if (++seen === writers * messages)
      process.send({ seen, failure, seconds: (performance.now() - begun) / 1000 })
  })
  const sockets = await Promise.all(
    Array.from({ length: writers }, async () => {
      const socket = new WebSocket(`ws://127.0.0.1:${port}/chat/${writeToken}`)
      await once(socket, 'open')
      return socket
    })
  )
  const begun = performance.now()
  const padding = 'x'.repeat(100)
  await Promise.all(
    sockets.map(async (socket, writer) => {
      for (let number = 0; number < messages; number++) {
        socket.send(`${writer} ${number} ${padding}`)
        // What the server does not read stays with the writer: wait for it, as a browser would not, but a test must.
        while (socket.bufferedAmount > 65536) await new Promise((resolve) => setTimeout(resolve, 1))
      }
    })
  )
})
process.on('disconnect', () => process.exit())
