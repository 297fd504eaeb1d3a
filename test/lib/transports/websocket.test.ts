import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { WebSocketConnection } from '../../../lib/transports/websocket.js'
import { flowControl, until } from '../../support/helper.js'

/** Both ends of a websocket. `autoPong` says whether the client answers pings. */
async function pair(t: Test, autoPong: boolean) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  t.teardown(() => server.close())
  await once(server, 'listening')
  const accepted = once(server, 'connection')
  const client = new WebSocket(`ws://127.0.0.1:${(server.address() as AddressInfo).port}`, { autoPong })
  t.teardown(() => client.terminate())
  const [webSocket, { socket }] = (await accepted) as [WebSocket, IncomingMessage]
  const access = { channels: ['a'], read: true, write: true, expiresAt: undefined, claims: {} }
  const context = {
    flow: flowControl(1024),
    onEnd() {},
    fallBehind: () => false,
    sent: { messages: 0, bytes: 0 }
  }
  const subscriber = new WebSocketConnection({ webSocket, socket }, access, {
    id: 1,
    remote: { address: '127.0.0.1', userAgent: undefined },
    sender: undefined,
    caller: undefined,
    context
  })
  webSocket.on('pong', () => {
    subscriber.unanswered = 0
  })
  await once(client, 'open')
  return { client, webSocket, subscriber }
}

t.test('terminates a client at the third ping if it has answered neither of the first two', async (t) => {
  const { client, subscriber } = await pair(t, false)
  subscriber.ping()
  subscriber.ping()
  t.equal(client.readyState, WebSocket.OPEN)
  const closed = once(client, 'close')
  subscriber.ping()
  t.equal((await closed)[0], 1006)
})

t.test(
  'keeps a client that still reads what was sent before the pings, and terminates one that reads nothing',
  async (t) => {
    const { client, subscriber } = await pair(t, true)
    client.pause()
    const frame = subscriber.format.encode({ channel: 'a', text: 'x'.repeat(20_000_000) })
    subscriber.deliver([frame], frame.bytes)
    for (let n = 0; n < 5; n++) subscriber.ping()
    t.equal(subscriber.open, true)
    // As if it had read nothing for 30 s.
    subscriber.waiting!.stalled = 120
    for (let n = 0; n < 3; n++) subscriber.ping()
    t.equal(subscriber.open, false)
  }
)

t.test('keeps a client that answers', async (t) => {
  const { client, webSocket, subscriber } = await pair(t, true)
  for (let i = 0; i < 5; i++) {
    const pong = once(webSocket, 'pong')
    subscriber.ping()
    await pong
  }
  t.equal(client.readyState, WebSocket.OPEN)
})

t.test('does not expect pongs while the server does not read the socket', async (t) => {
  const { client, webSocket, subscriber } = await pair(t, true)
  webSocket.pause()
  for (let i = 0; i < 5; i++) subscriber.ping()
  webSocket.resume()
  await until(() => subscriber.unanswered === 0)
  t.equal(client.readyState, WebSocket.OPEN)
})
