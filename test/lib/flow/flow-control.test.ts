import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { FlowControl } from '../../../lib/flow/flow-control.js'
import { WebSocketConnection } from '../../../lib/transports/websocket.js'
import { until } from '../../support/helper.js'

const access = { channels: ['a'], read: true, write: false, expiresAt: undefined, claims: {} }

/** Connections that share a flow control; their clients read nothing until the test lets them. */
async function clients(
  t: Test,
  count: number,
  options: Partial<ConstructorParameters<typeof FlowControl>[0]>
) {
  const slow: [bufferedBytes: number, reason: string][] = []
  const flow = new FlowControl({
    maxBufferedBytes: 100_000,
    maxTotalBufferedBytes: 2 ** 28,
    slowTimeout: 600_000,
    onSlow: (...reported) => slow.push(reported),
    ...options
  })
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  t.teardown(() => server.close())
  await once(server, 'listening')
  const all: { client: WebSocket; connection: WebSocketConnection }[] = []
  for (let id = 1; id <= count; id++) {
    const accepted = once(server, 'connection')
    const client = new WebSocket(`ws://127.0.0.1:${(server.address() as AddressInfo).port}`)
    t.teardown(() => client.terminate())
    const [webSocket, { socket }] = (await accepted) as [WebSocket, IncomingMessage]
    const connection = new WebSocketConnection({ webSocket, socket }, access, {
      id,
      remote: { address: '127.0.0.1', userAgent: undefined },
      sender: undefined,
      caller: undefined,
      context: { flow, onEnd() {}, fallBehind: () => false, sent: { messages: 0, bytes: 0 } }
    })
    webSocket.on('close', () => flow.forget(connection))
    await once(client, 'open')
    client.pause()
    all.push({ client, connection })
  }
  return { flow, slow, all }
}

/** A frame of this many kB. */
function message(connection: WebSocketConnection, length = 50_000) {
  const frame = connection.format.encode({ channel: 'a', text: 'x'.repeat(length) })
  return [[frame], frame.bytes] as const
}

t.test('no more than 16 times the limit waits for one client, whatever it reads', async (t) => {
  const { slow, all } = await clients(t, 1, {})
  const { connection } = all[0]!
  while (connection.open) {
    connection.deliver(...message(connection))
    t.ok(connection.bufferedBytes <= 1_600_000)
  }
  t.match(slow, [[Number, 'limit']])
  t.ok(slow[0]![0] > 1_500_000)
})

t.test('closes a client that reads nothing; it receives the code once it reads', async (t) => {
  const { slow, all, flow } = await clients(t, 1, { slowTimeout: 1000 })
  const { connection, client } = all[0]!
  while (connection.bufferedBytes < 100_000) connection.deliver(...message(connection))
  t.equal(connection.open, true)
  await until(() => !connection.open)
  t.match(slow, [[Number, 'stalled']])
  t.ok(flow.totalBytes > 0)
  client.resume()
  t.same((await once(client, 'close'))[0], 3008)
  await until(() => flow.totalBytes === 0)
})

t.test('one large message is no reason to close a client, however slowly it reads', async (t) => {
  const { slow, all, flow } = await clients(t, 1, { slowTimeout: 500 })
  const { connection, client } = all[0]!
  connection.deliver(...message(connection, 20_000_000))
  // Checked often enough that it would be closed.
  const looks: number[] = []
  await until(() => {
    const { stalled } = connection.waiting!
    if (looks.at(-1) !== stalled) looks.push(stalled)
    return stalled >= 6
  })
  t.same(slow, [])
  client.resume()
  const [data] = await once(client, 'message')
  t.equal(data.length, 20_000_000)
  await until(() => connection.waiting === undefined)
  t.equal(flow.totalBytes, 0)
})

t.test('shared bytes count once; the slowest clients are closed until the total is in bounds', async (t) => {
  const { slow, all, flow } = await clients(t, 4, {
    maxBufferedBytes: 100_000_000,
    maxTotalBufferedBytes: 20_000_000
  })
  // The same message for all, larger than the socket buffers.
  const [frames, joined] = message(all[0]!.connection, 10_000_000)
  for (const { connection } of all) connection.deliver(frames, joined)
  t.equal(flow.totalBytes, joined.length)
  // Messages for the first client only.
  const [first] = all
  while (first!.connection.open) {
    first!.connection.deliver(...message(first!.connection, 1_000_000))
    t.ok(flow.totalBytes <= 20_000_000)
  }
  t.match(slow, [[Number, 'total']])
  t.equal(flow.totalBytes, joined.length)
  t.ok(all.slice(1).every(({ connection }) => connection.open))
  const messages = all.slice(1).map(({ client }) => once(client, 'message'))
  for (const { client } of all.slice(1)) client.resume()
  for (const [data] of await Promise.all(messages)) t.equal(data.length, 10_000_000)
  await until(() => flow.totalBytes === 0)
})
