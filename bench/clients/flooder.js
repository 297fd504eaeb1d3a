// One client that sends the same text as fast as it is read, and reconnects when it is closed.
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { WebSocket } from 'ws'

async function open({ port, path, greeting }) {
  const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`)
  socket.on('error', () => {})
  await once(socket, 'open')
  if (greeting) socket.send(greeting)
  return socket
}

process.on('message', async (order) => {
  let socket = await open(order)
  process.send({ ready: true })
  for (;;) {
    if (socket.readyState !== WebSocket.OPEN) socket = await open(order)
    // Small messages in hundreds, so that the flooder is not the bottleneck.
    for (let i = 0; i < (order.text.length > 100 ? 1 : 500); i++) socket.send(order.text)
    while (socket.readyState === WebSocket.OPEN && socket.bufferedAmount > 1e6) {
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    await turn()
  }
})
process.on('disconnect', () => process.exit())
