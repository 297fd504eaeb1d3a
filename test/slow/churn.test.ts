import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { queryObjects } from 'node:v8'
import type { FastifyInstance } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import { Connection } from '../../lib/clients/connections/connection.js'
import { Session } from '../../lib/protocols/centrifugo/session/session.js'
import { churn, KINDS } from '../support/churn.js'
import { build, notify, open, query, refusal, token, until, withPostgres } from '../support/helper.js'

/** `npm run soak:connections` runs for longer. */
const SECONDS = Number(process.env.PGWS_CHURN_SECONDS ?? 4)
const SEED = Number(process.env.PGWS_CHURN_SEED ?? Date.now() % 1e9)
const PLACES = 60

const { database } = await withPostgres(t)
const rw = token({ mode: 'rw' })

/** A database with an `authorizeFunction` that admits everybody after a moment. */
async function withSlowAdmission(): Promise<string> {
  const dbUri = await database()
  await query(
    dbUri,
    `create function admit(text, text, jsonb) returns boolean language sql as
     $$ select true from pg_catalog.pg_sleep(random() * 0.03) $$`
  )
  return dbUri
}

/** Counts this package's objects after a garbage collection. Each count searches the whole heap. */
const objects = () => [Connection, Session].map((kind) => queryObjects(kind, { format: 'count' }))

async function metric(fastify: FastifyInstance, name: string): Promise<number> {
  const { body } = await fastify.inject('/metrics')
  const series = [...body.matchAll(new RegExp(`^${name}(?:\\{.*\\})? (.*)$`, 'gm'))]
  return series.reduce((sum, [, value]) => sum + Number(value), 0)
}

t.test(`clients of every kind that come and go for ${SECONDS} s leave nothing behind`, async (t) => {
  t.comment(`seed ${SEED}`)
  const dbUri = await withSlowAdmission()
  const { fastify, ws, port, lines } = await build(
    t,
    {
      dbUri,
      rawChannels: 'raw:*',
      presenceChannels: 'room*',
      endpoints: [{ path: '/audience', channels: ['audience'], public: true }],
      authorizeFunction: 'public.admit',
      authorizeTtl: 0,
      maxConnections: PLACES,
      migrate: true
    },
    { server: { requestTimeout: 2000 } }
  )
  await query(dbUri, "select pgws.retain('kept', '1 minute', 50)")
  const { pgws } = fastify
  await until(async () => (await pgws.health()).status === 'ok')
  const before = objects()

  let over = false
  const publishing = (async () => {
    for (let n = 0; !over; n++) {
      for (const channel of ['room1', 'room2', 'plain', 'kept']) await pgws.publish(channel, `message ${n}`)
      await notify(dbUri, `raw ${n}`, 'raw:1')
      await notify(dbUri, `audience,{"to":"default","n":${n}}`, 'audience')
    }
  })()
  const counts = await churn({ port, seed: SEED, milliseconds: SECONDS * 1000, clients: 50 })
  over = true
  await publishing

  t.strictSame(Object.keys(counts).sort(), Object.keys(KINDS).sort())
  await left(t, fastify)
  const logged = (message: string) => lines.filter((line) => line.includes(message)).length
  t.ok(logged('socket opened') > 0, `${logged('socket opened')} came in of ${JSON.stringify(counts)}`)
  t.equal(logged('socket closed'), logged('socket opened'))

  // The server no longer listens to any of the database channels.
  await until(async () => {
    const notifications = await metric(fastify, 'pgws_notifications_total')
    for (const channel of ['raw:1', 'raw:2']) await notify(dbUri, 'nobody listens', channel)
    const heard = new Promise<void>((resolve) => {
      const stop = pgws.subscribe('witness', () => {
        stop()
        resolve()
      })
    })
    await pgws.publish('witness', 'x')
    await heard
    return (await metric(fastify, 'pgws_notifications_total')) - notifications === 1
  })

  // Each connection of the limit can be used again, and not one more.
  const clients = await Promise.all(Array.from({ length: PLACES }, () => open(t, `${ws}/plain/${rw}`)))
  t.equal((await refusal(t, `${ws}/plain/${rw}`)).status, 503)
  for (const { webSocket } of clients) webSocket.terminate()
  await left(t, fastify)

  t.same(
    lines.filter((line) => /"level":[56]0/.test(line)),
    []
  )
  let after = objects()
  for (let tries = 0; tries < 100 && String(after) !== String(before); tries++) {
    await sleep(500)
    after = objects()
  }
  t.strictSame(after, before)
})

/** Waits until no count shows a client any more. */
async function left(t: Test, fastify: FastifyInstance): Promise<void> {
  const { pgws } = fastify
  const counts = async () => ({
    connections: (await pgws.connections()).length,
    channels: pgws.channels().filter(({ connections }) => connections > 0).length,
    present: (await pgws.presence('room1')).count + (await pgws.presence('room2')).count,
    gauge: await metric(fastify, 'pgws_connections'),
    sockets: await new Promise((resolve) => fastify.server.getConnections((_error, count) => resolve(count)))
  })
  const none = { connections: 0, channels: 0, present: 0, gauge: 0, sockets: 0 }
  // A connection that does not read its end is closed after ten seconds.
  await until(async () => JSON.stringify(await counts()) === JSON.stringify(none), 60_000).catch(() => {})
  t.strictSame(await counts(), none)
}

/** A database with an `authorizeFunction` that does not answer between `hold` and its release. */
async function withGate(t: Test) {
  const dbUri = await database()
  await query(
    dbUri,
    `create function gate(text, text, jsonb) returns boolean language sql as
     $$ select true from pg_catalog.pg_advisory_xact_lock_shared(7) $$`
  )
  return {
    dbUri,
    async hold() {
      const client = new pg.Client(dbUri)
      await client.connect()
      t.teardown(() => client.end())
      await client.query('select pg_advisory_lock(7)')
      return () => client.query('select pg_advisory_unlock(7)')
    },
    /** The number of calls that wait. */
    async waiting() {
      const { rows } = await query(
        dbUri,
        `select count(*)::int as n from pg_locks
         where locktype = 'advisory' and objid = 7 and not granted
           and database = (select oid from pg_database where datname = current_database())`
      )
      return rows[0].n as number
    }
  }
}

t.test('a client that leaves during its admission is never admitted', async (t) => {
  const { dbUri, hold, waiting } = await withGate(t)
  const { fastify, port, lines } = await build(t, {
    dbUri,
    authorizeFunction: 'public.gate',
    authorizeTtl: 0,
    rawChannels: '*',
    presenceChannels: '*',
    maxConnections: 1
  })
  const { pgws } = fastify
  const commands = [
    { id: 1, connect: { token: rw } },
    { id: 2, subscribe: { channel: 'a' } }
  ]
    .map((command) => JSON.stringify(command))
    .join('\n')
  for (const kind of ['event stream', 'websocket', 'SDK'] as const) {
    const release = await hold()
    const socket = connect(port, '127.0.0.1').on('error', () => {})
    socket.write(
      kind === 'event stream'
        ? `GET /a/${rw} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n`
        : kind === 'SDK'
          ? `GET /connection/sse?cf_connect=${encodeURIComponent(commands)} HTTP/1.1\r\nHost: x\r\n\r\n`
          : `GET /a/${rw} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`
    )
    await until(async () => (await waiting()) === 1)
    socket.resetAndDestroy()
    await release()
    // Another client follows. The limit is one connection.
    await until(async () => {
      const stream = await fetch(`http://127.0.0.1:${port}/b/${rw}`, {
        headers: { accept: 'text/event-stream' }
      })
      const came = stream.status === 200 && (await pgws.connections()).length === 1
      if (came) t.same((await pgws.presence('a')).clients, [], kind)
      await stream.body!.cancel()
      return came
    })
    await until(async () => (await pgws.connections()).length === 0)
    t.same(pgws.channels(), [])
  }
  t.same(
    lines.filter((line) => /"level":[56]0/.test(line)),
    []
  )
})

t.test('streams that are pipelined on one connection are rejected, and leave nothing behind', async (t) => {
  const { fastify, port } = await build(t, {
    dbUri: await database(),
    presenceChannels: '*',
    rawChannels: '*'
  })
  const { pgws } = fastify
  const socket = connect(port, '127.0.0.1').on('error', () => {})
  const body = JSON.stringify({ id: 1, connect: { token: rw } })
  socket.write(
    `GET /a/${rw} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n` +
      `GET /b/${rw} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n` +
      `POST /connection/http_stream HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  )
  await until(async () => (await pgws.connections()).length > 0)
  const metrics = await fastify.inject('/metrics')
  t.match(metrics.body, /pgws_refusals_total\{reason="FST_PGWS_BAD_QUERY"\} 2/)
  t.same(
    (await pgws.connections()).map(({ channels }) => channels),
    [['a']]
  )
  t.same(await pgws.disconnect({ channel: 'a' }), { closed: 1, missing: [] })
  await once(socket.resume(), 'close')
  await left(t, fastify)

  // The refusal comes after the answer to the first request.
  const behind = connect(port, '127.0.0.1')
  behind.write(
    `GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /b/${rw} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n`
  )
  t.match(await text(behind), /200 OK[\s\S]*400 Bad Request[\s\S]*must not be pipelined/)
  await left(t, fastify)
})

t.test('over HTTP/2, a client leaves when its stream ends, not when its connection does', async (t) => {
  const { fastify, http } = await build(
    t,
    { dbUri: await database(), maxConnections: 1, presenceChannels: '*', rawChannels: '*' },
    { server: { http2: true } as never }
  )
  const { pgws } = fastify
  const session = connectHttp2(http)
  t.teardown(() => session.destroy())
  for (let i = 0; i < 3; i++) {
    const stream = session.request({ ':path': `/a/${rw}`, accept: 'text/event-stream' })
    const [headers] = await once(stream, 'response')
    t.equal(headers[':status'], 200)
    await until(async () => (await pgws.connections()).length === 1)
    await pgws.publish('a', 'x')
    t.match(String((await once(stream, 'data'))[0]), /^data: x$/m)
    stream.close()
    await until(async () => (await pgws.connections()).length === 0)
    t.equal((await pgws.presence('a')).count, 0)
  }
  const stream = session.request({ ':path': `/a/${rw}`, accept: 'text/event-stream' })
  await once(stream, 'response')
  stream.resume()
  t.same(await pgws.disconnect({ channel: 'a' }), { closed: 1, missing: [] })
  await once(stream, 'close')
  await until(async () => (await pgws.connections()).length === 0)
})
