import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { run, started } from './app.js'
import { open, SECRET, sqlListener, token, until, withPostgres } from './helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const base = { PGWS_DB_URI: dbUri, PGWS_JWT_SECRET: SECRET, PGWS_HOST: '127.0.0.1' }
const app = async (t: Test, more: object = {}) => started(await run(t, { ...base, ...more }))
const rw = token({ mode: 'rw' })

t.test(
  'SIGTERM: no new sockets, all that was received is published, closes are spread, exit 0',
  async (t) => {
    const { ws, http, child, exit } = await app(t)
    const { payloads } = await sqlListener(t, dbUri)
    const clients = await Promise.all(Array.from({ length: 600 }, () => open(t, `${ws}/a/${rw}`)))
    const times: number[] = []
    for (const { webSocket } of clients) webSocket.once('close', () => times.push(Date.now()))
    const closed = clients.map((client) => client.closed())
    // One that does not answer the close keeps the server for a while.
    clients[0]!.webSocket.pause()
    for (const [i, client] of clients.entries()) client.send(`message ${i}`)
    await until(() => payloads.length > 0)
    child.kill('SIGTERM')
    await until(() => times.length > 0)
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
    await until(() => times.length === 599)
    t.ok(times.at(-1)! - times[0]! > 100, `spread over ${times.at(-1)! - times[0]!} ms`)
    clients[0]!.webSocket.resume()
    for (const { code, reason } of await Promise.all(closed)) {
      t.same({ code, reason }, { code: 1001, reason: 'server shutting down' })
    }
    t.equal(await exit, 0)
    await until(() => payloads.length === 600)
    t.equal(new Set(payloads.map((text) => JSON.parse(text).payload)).size, 600)
  }
)

t.test('PGWS_SHUTDOWN_TIMEOUT bounds it, clients that do not answer or not', async (t) => {
  const { ws, child, exit } = await app(t, { PGWS_SHUTDOWN_TIMEOUT: '1000' })
  const client = await open(t, `${ws}/a/${rw}`)
  client.webSocket.pause()
  const begun = Date.now()
  child.kill('SIGTERM')
  t.equal(await exit, 0)
  t.ok(Date.now() - begun < 4000, `${Date.now() - begun} ms`)
})

t.test('a signal that comes twice is one; a second one, later, ends the server at once', async (t) => {
  const { ws, child, exit, output } = await app(t, { PGWS_SHUTDOWN_TIMEOUT: '10000' })
  const client = await open(t, `${ws}/a/${rw}`)
  client.webSocket.pause()
  const begun = Date.now()
  child.kill('SIGINT')
  child.kill('SIGINT')
  await sleep(1100)
  t.equal(child.exitCode, null)
  child.kill('SIGTERM')
  t.equal(await exit, 1)
  t.ok(Date.now() - begun < 8000, `${Date.now() - begun} ms`)
  t.match(output(), /SIGTERM again: ending at once/)
})

t.test('a client that does not finish its handshake is cut off', async (t) => {
  const { port, ws } = await app(t, { PGWS_HANDSHAKE_TIMEOUT: '500' })
  for (const text of [
    '',
    'GET / HTTP/1.1\r\nHost: x\r\n',
    'POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n'
  ]) {
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'connect')
    const begun = Date.now()
    socket.write(text)
    let answer = ''
    socket.on('data', (chunk) => {
      answer += chunk
    })
    await once(socket, 'close')
    t.ok(Date.now() - begun < 15_000, `${Date.now() - begun} ms`)
    t.match(answer, text === '' ? /^$|408/ : /408/)
  }
  // It is a deadline of the handshake, not of the socket.
  const client = await open(t, `${ws}/a/${rw}`)
  await sleep(2000)
  t.equal(client.webSocket.readyState, 1)
})
