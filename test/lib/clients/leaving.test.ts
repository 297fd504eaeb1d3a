import { once } from 'node:events'
import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { run, started } from '../../support/app.js'
import { open, SECRET, sqlListener, token, until, withPostgres } from '../../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const base = { PGWS_DB_URI: dbUri, PGWS_JWT_SECRET: SECRET, PGWS_HOST: '127.0.0.1' }
const app = async (t: Test, more: object = {}) => started(await run(t, { ...base, ...more }))
const rw = token({ mode: 'rw' })

t.test(
  'SIGTERM: refuses new sockets, publishes everything received, closes sockets, exits with 0',
  async (t) => {
    // It exits with its last client, long before the timeout.
    const { ws, http, child, exit } = await app(t, { PGWS_SHUTDOWN_TIMEOUT: '60000' })
    const { payloads } = await sqlListener(t, dbUri)
    const clients = await Promise.all(Array.from({ length: 600 }, () => open(t, `${ws}/a/${rw}`)))
    let gone = 0
    for (const { webSocket } of clients) webSocket.once('close', () => gone++)
    const closed = clients.map((client) => client.closed())
    // A client that does not answer the close keeps the server running for a while.
    clients[0]!.webSocket.pause()
    for (const [i, client] of clients.entries()) client.send(`message ${i}`)
    await until(() => payloads.length > 0)
    child.kill('SIGTERM')
    await until(() => gone > 0)
    t.equal((await fetch(`${http}/health/ready`)).status, 503)
    const late = await new Promise<number>((resolve) => {
      const socket = connect(Number(new URL(http).port), '127.0.0.1')
      socket.on('error', () => resolve(0))
      socket.on('data', (chunk) => resolve(Number(String(chunk).split(' ')[1])))
      socket.write(
        `GET /a/${rw} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`
      )
    })
    t.equal(late, 503)
    await until(() => gone === 599)
    clients[0]!.webSocket.resume()
    for (const { code, reason } of await Promise.all(closed)) {
      t.same({ code, reason }, { code: 1001, reason: 'server shutting down' })
    }
    t.equal(await exit, 0)
    await until(() => payloads.length === 600)
    t.equal(new Set(payloads.map((text) => JSON.parse(text).payload)).size, 600)
  }
)

t.test('PGWS_SHUTDOWN_TIMEOUT limits the shutdown, whether or not clients answer', async (t) => {
  const [short, long] = await Promise.all(
    ['1000', '600000'].map((timeout) => app(t, { PGWS_SHUTDOWN_TIMEOUT: timeout }))
  )
  for (const { ws } of [short!, long!]) (await open(t, `${ws}/a/${rw}`)).webSocket.pause()
  for (const { child } of [long!, short!]) child.kill('SIGTERM')
  t.equal(await short!.exit, 0)
  t.equal(long!.child.exitCode, null, 'the one with more time still waits for its client')
})

t.test('a signal that is repeated at once counts once; a later one ends the server at once', async (t) => {
  // Ten minutes, so only a signal can end it in this test.
  const { ws, child, exit, output } = await app(t, { PGWS_SHUTDOWN_TIMEOUT: '600000' })
  const client = await open(t, `${ws}/a/${rw}`)
  client.webSocket.pause()
  child.kill('SIGINT')
  child.kill('SIGINT')
  await until(() => output().includes('SIGINT: shutting down'))
  t.equal(child.exitCode, null)
  // The second signal is ignored while it may be the first one, forwarded by a parent.
  await until(() => {
    child.kill('SIGTERM')
    return output().includes('SIGTERM again: exiting immediately')
  })
  t.equal(await exit, 1)
})

t.test('disconnects a client that does not finish its handshake', async (t) => {
  const { port, ws } = await app(t, { PGWS_HANDSHAKE_TIMEOUT: '500' })
  // The deadline is that of the handshake, not of the socket: this one outlives later ones.
  const client = await open(t, `${ws}/a/${rw}`)
  for (const text of [
    '',
    'GET / HTTP/1.1\r\nHost: x\r\n',
    'POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n'
  ]) {
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'connect')
    socket.write(text)
    let answer = ''
    socket.on('data', (chunk) => {
      answer += chunk
    })
    await once(socket, 'close')
    t.match(answer, text === '' ? /^$|408/ : /408/)
  }
  client.send('still there')
  t.match(await client.received(1), [/still there/])
})
