import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import {
  type ClientHttp2Session,
  connect,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders
} from 'node:http2'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import { build, DEADLINE, open, query, token, until, withPostgres } from '../support/helper.js'
import { root } from '../support/root.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const rw = token({ mode: 'rw', channels: ['chat'] })
const fixture = (name: string) => readFileSync(join(root, `test/fixtures/${name}`))

/** Streams without end, so that only the server ends them. */
const http2 = { http2: true, http2SessionTimeout: 0 }
const SERVERS: Record<string, object> = {
  'over TCP': http2,
  'over TLS, with HTTP/1.1 beside it': {
    ...http2,
    https: { allowHTTP1: true, cert: fixture('certificate.pem'), key: fixture('key.pem') }
  }
}

async function connected(t: Test, origin: string): Promise<ClientHttp2Session> {
  const session = connect(origin, { rejectUnauthorized: false })
  t.teardown(() => session.destroy())
  session.on('error', () => {})
  await once(session, 'connect')
  return session
}

/** A request whose answer is read as it arrives. */
async function ask(session: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: string) {
  const stream = session.request(headers)
  stream.setEncoding('utf8').on('error', () => {})
  const answer = { status: 0, text: '', ended: once(stream, 'end') }
  stream.on('data', (chunk) => {
    answer.text += chunk
  })
  stream.end(body)
  const [head] = (await once(stream, 'response')) as [IncomingHttpHeaders & { ':status': number }]
  answer.status = head[':status']
  return answer
}

for (const [name, server] of Object.entries(SERVERS)) {
  t.test(`HTTP/2 ${name}: streams deliver without warnings, and sessions end with the server`, async (t) => {
    const warnings: Error[] = []
    const warn = (warning: Error) => void warnings.push(warning)
    process.on('warning', warn)
    t.teardown(() => process.off('warning', warn))
    const secure = 'https' in server
    const { fastify, port } = await build(t, { dbUri }, { server: server as FastifyServerOptions })
    const origin = `${secure ? 'https' : 'http'}://127.0.0.1:${port}`
    const session = await connected(t, origin)
    const idle = await connected(t, origin)

    const events = await ask(session, { ':path': `/chat/${rw}`, accept: 'text/event-stream' })
    t.equal(events.status, 200)
    const command = JSON.stringify({ id: 1, connect: { token: rw } })
    const post = { ':method': 'POST', 'content-type': 'application/json' }
    const sse = await ask(session, { ':path': `/connection/sse?cf_connect=${encodeURIComponent(command)}` })
    const lines = await ask(session, { ':path': '/connection/http_stream', ...post }, command)
    for (const sdk of [sse, lines]) {
      await until(() => sdk.text.includes('"session"'))
      const { session: secret, node } = JSON.parse(/\{.*\}/.exec(sdk.text)![0]).connect
      const data = JSON.stringify({ id: 2, subscribe: { channel: 'chat' } })
      const body = JSON.stringify({ session: secret, node, data })
      t.equal((await ask(session, { ':path': '/emulation', ...post }, body)).status, 204)
      await until(() => sdk.text.includes('"id":2'))
    }
    t.equal((await ask(session, { ':path': '/health' })).status, 200)
    await fastify.pgws.publish('chat', 'to all of them')
    for (const stream of [events, sse, lines]) await until(() => stream.text.includes('to all of them'))
    if (secure) {
      const client = await open(t, `wss://127.0.0.1:${port}/chat/${rw}`, { rejectUnauthorized: false })
      await fastify.pgws.publish('chat', 'to a websocket')
      t.match(await client.received(1), [/to a websocket/])
    }

    const ended = [session, idle].map((one) => once(one, 'close'))
    const overdue = sleep(DEADLINE, 'overdue', { ref: false })
    t.not(await Promise.race([fastify.close(), overdue]), 'overdue')
    await Promise.all([...ended, events.ended, sse.ended, lines.ended])
    t.same(warnings, [])
  })
}

t.test('over HTTP/2, a client that reads slowly while it resumes is sent more as it reads', async (t) => {
  const dbUri = await database()
  const { fastify, port } = await build(
    t,
    { dbUri, migrate: true, maxBufferedBytes: 1_000_000 },
    { server: http2 as FastifyServerOptions }
  )
  await query(dbUri, `select pgws.retain('kept', '1 hour')`)
  // More than the windows of HTTP/2, and than the node may keep for a client.
  await query(
    dbUri,
    `select pgws.publish_text('kept', repeat('x', 20000) || n) from generate_series(1, 2000) n`
  )
  await query(dbUri, 'select pgws.catch_up()')
  const session = await connected(t, `http://127.0.0.1:${port}`)
  const reader = token({ mode: 'r', channels: ['kept'] })
  const stream = session.request({
    ':path': `/kept/${reader}?since=earliest`,
    accept: 'text/event-stream'
  })
  stream.on('error', () => {})
  await once(stream, 'response')
  // Nothing reads the stream yet.
  const waiting = async () => (await fastify.pgws.connections())[0]?.bufferedBytes ?? 0
  let most = 0
  await until(async () => {
    const before = await waiting()
    await sleep(100)
    most = Math.max(most, await waiting())
    return before > 0 && (await waiting()) === before
  })
  t.ok(most < 20_000_000, `${most} bytes wait for it`)
  let text = ''
  stream.setEncoding('utf8').on('data', (chunk) => {
    text += chunk
  })
  await until(() => text.includes('x2000"'))
  t.equal(text.match(/^id:/gm)?.length, 2000)
})
