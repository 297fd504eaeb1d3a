import { io, type Socket } from 'socket.io-client'
import t from 'tap'
import { startExample } from '../support/example.js'
import { until } from '../support/helper.js'

t.test('the example "socket.io": a message reaches the clients of both nodes', async (t) => {
  const example = await startExample(t, 'socket.io', { count: 2 })
  const addresses = example.addresses()
  for (const address of addresses) {
    const page = await (await fetch(address)).text()
    for (const [, script] of page.matchAll(/src="([^"]+)"/g)) {
      t.equal((await fetch(new URL(script!, address))).status, 200, script!)
    }
  }
  const received: { text: string; node: number }[][] = [[], []]
  const clients: Socket[] = addresses.map((address, i) => {
    const client = io(address, { transports: ['websocket'], forceNew: true })
    t.teardown(() => client.close())
    return client.on('message', (message) => received[i]!.push(message))
  })
  await until(() => clients.every(({ connected }) => connected))
  clients[0]!.emit('message', { text: 'not a string' })
  clients[0]!.emit('message', 'from the first')
  await until(() => received.every(({ length }) => length === 1))
  clients[1]!.emit('message', 'from the second')
  await until(() => received.every(({ length }) => length === 2))
  t.same(received[0], received[1])
  t.same(
    received[0]!.map(({ text }) => text),
    ['from the first', 'from the second']
  )
  t.not(received[0]![0]!.node, received[0]![1]!.node, 'two processes')
  for (const client of clients) client.close()
  await example.stop()
})
