import { once } from 'node:events'
import { Agent, request } from 'node:http'
import t from 'tap'
import { answer, stream } from '../support/event-stream.js'
import { build, notify, open, query, token, until, withPostgres } from '../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const reader = token({ mode: 'r' })

t.test('sends the same messages at the same addresses as websockets', async (t) => {
  const { http, ws, fastify } = await build(t, { dbUri })
  const socket = await open(t, `${ws}/a/${reader}`)
  const streams = [
    await stream(t, `${http}/a/${reader}`),
    await stream(t, `${http}/${token({ mode: 'r', channels: ['a', 'b'] })}`),
    await stream(t, `${http}/?channel=a&channel=b`, { authorization: `Bearer ${reader}` })
  ]
  const { headers } = streams[0]!.response
  t.match(headers['content-type'], /^text\/event-stream/)
  t.match(headers['cache-control'], /no-cache/)
  t.equal(headers['x-accel-buffering'], 'no')
  t.match(
    fastify.pgws.channels().find(({ channel }) => channel === 'a'),
    { connections: 4, readers: 4, writers: 0 }
  )
  await fastify.pgws.publish('a', 'one\ntwo')
  await notify(dbUri, '{"channel":"a",\n\n"raw":"text"}')
  await socket.received(2)
  for (const { received, events } of streams.map((one) => ({
    received: one.received(2),
    events: one.events
  }))) {
    await received
    t.same(
      events.map(({ data }) => data),
      socket.messages
    )
    t.ok(events.every(({ event, id }) => event === undefined && id === undefined))
  }
  await fastify.pgws.publish('b', 'three')
  await streams[1]!.received(3)
  await streams[2]!.received(3)
})

t.test('has the same authorization and limits as websockets', async (t) => {
  const { http, lines } = await build(t, { dbUri, allowedOrigins: 'https://example.org', maxConnections: 1 })
  const status = async (path: string, headers = {}) => {
    const response = await answer(http + path, headers)
    response.resume()
    return response.statusCode
  }
  t.equal(await status('/a/nonsense'), 401)
  t.equal(await status(`/a/${token({ mode: 'r', channels: ['b'] })}`), 403)
  t.equal(await status(`/a/${token({ mode: 'w' })}`), 403)
  t.equal(await status(`/%ff/${reader}`), 400)
  t.equal(await status(`/a/${reader}`, { origin: 'https://evil.example' }), 403)
  const one = await stream(t, `${http}/a/${reader}`, { origin: 'https://example.org' })
  t.equal(one.response.headers['access-control-allow-origin'], 'https://example.org')
  t.equal(await status(`/a/${reader}`), 503)
  one.response.destroy()
  await until(async () => lines.some((line) => line.includes('socket closed')))
  await stream(t, `${http}/a/${reader}`)
  t.notMatch(lines.join(''), /eyJ/)
})

t.test('a rejected stream does not count, even on a persistent connection', async (t) => {
  const { http } = await build(t, { dbUri, maxConnections: 1 })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  for (let i = 0; i < 3; i++) {
    const sent = request(`${http}/a/${token({ mode: 'w' })}`, {
      headers: { accept: 'text/event-stream' },
      agent
    })
    const [response] = await once(sent.end(), 'response')
    t.equal(response.statusCode, 403)
    response.resume()
    await once(response, 'end')
  }
  await stream(t, `${http}/a/${reader}`)
})

t.test('ends when the token expires, and when the server ends', async (t) => {
  const { http, fastify } = await build(t, { dbUri })
  const short = await stream(t, `${http}/a/${token({ mode: 'r', exp: Math.floor(Date.now() / 1000) + 4 })}`)
  const long = await stream(t, `${http}/a/${reader}`)
  await short.ended
  t.match(short.events.at(-1), { event: 'Expired' })
  t.notOk(long.events.some(({ event }) => event === 'Expired'))
  await fastify.close()
  await long.ended
})

t.test('supports Last-Event-ID and since on durable channels; bytes are base64', async (t) => {
  const own = await database()
  const { http, fastify } = await build(t, { dbUri: own, migrate: true })
  await query(own, `select pgws.retain('a', '1 hour')`)
  const first = await stream(t, `${http}/a/${reader}`)
  for (const payload of ['1', '2', '3']) await fastify.pgws.publish('a', payload)
  await query(own, `select pgws.publish_bytes('a', '\\x00ff10')`)
  await first.received(4)
  const ids = first.events.map(({ id }) => id!)
  t.same(ids, [...new Set(ids)].sort())
  t.match(first.events[3], { event: 'Bytes', data: Buffer.from([0, 255, 16]).toString('base64') })
  const again = await stream(t, `${http}/a/${reader}?since=earliest`, { 'last-event-id': ids[1]! })
  t.same(await again.received(2), first.events.slice(2))
  const all = await stream(t, `${http}/a/${reader}?since=earliest`)
  t.same(await all.received(4), first.events)
})

t.test('ends a stream that is not read, without delaying others', async (t) => {
  const { http, fastify, lines } = await build(t, { dbUri, maxBufferedBytes: 100_000 })
  const slow = await answer(`${http}/a/${reader}`)
  t.teardown(() => slow.destroy())
  const good = await stream(t, `${http}/a/${reader}`)
  for (let i = 0; i < 40; i++) {
    await Promise.all(Array.from({ length: 50 }, () => fastify.pgws.publish('a', 'x'.repeat(7000))))
  }
  await good.received(2000)
  await until(() => lines.some((line) => line.includes('"code":3008')))
  t.equal(good.events.length, 2000)
})

t.test("does not affect a host's own event streams", async (t) => {
  const { http } = await build(
    t,
    { dbUri },
    { before: (fastify) => fastify.get('/ticks', async () => 'data: mine\n\n') }
  )
  const response = await answer(`${http}/ticks`)
  response.setEncoding('utf8')
  t.equal((await once(response, 'data'))[0], 'data: mine\n\n')
})

t.test('no answer repeats a token, whatever the method', async (t) => {
  const { http } = await build(t, { dbUri })
  for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) {
    for (const place of ['/a/', '/', '/a/b/c/']) {
      const response = await fetch(`${http}${place}${token({ mode: 'w' })}`, {
        method,
        headers: { accept: 'text/event-stream' }
      })
      t.ok(response.status >= 400, `${method} ${place}`)
      t.notMatch(await response.text(), /eyJ/, `${method} ${place}`)
    }
  }
})
