import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { run, started } from '../support/app.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { build, open, query, SECRET, token, until } from '../support/helper.js'
import {
  type Cluster,
  createDatabase,
  migratedDatabase,
  restartPostgres,
  sharedPostgres,
  testPostgres
} from '../support/postgres.js'
import { type Centrifuge, raw, SDKS, sdk, subscribed } from '../support/sdk.js'

const postgres = await sharedPostgres(t)
const rw = token({ mode: 'rw', sub: 'me' })

/** A database in which the channel `kept` is durable. */
async function retaining(server: Cluster = postgres) {
  const dbUri = await migratedDatabase(server)
  await query(dbUri, `select pgws.retain('kept', interval '1 hour')`)
  return dbUri
}

/** A client that connects to one of several nodes, to another one each time. */
function wanderer(t: Test, nodes: { ws: string }[], Sdk?: typeof Centrifuge) {
  let next = Math.floor(Math.random() * nodes.length)
  const endpoint = () => `${nodes[next++ % nodes.length]!.ws}/connection/websocket`
  const client = sdk(t, '', { token: rw }, Sdk, [{ transport: 'websocket', endpoint }])
  const kept = subscribed(client, 'kept')
  client.connect()
  return { client, ...kept }
}

t.test(
  'late commits and reconnecting clients: each committed message once, in one order for all',
  async (t) => {
    const dbUri = await retaining()
    const nodes = [await build(t, { dbUri }), await build(t, { dbUri })]
    const clients = Object.values(SDKS)
      .flatMap((Sdk) => [Sdk, Sdk])
      .map((Sdk) => wanderer(t, nodes, Sdk))
    await Promise.all(clients.map(({ subscription }) => subscription.ready(30_000)))
    let over = false
    const wandering = clients.map(async ({ client }) => {
      while (!over) {
        await sleep(Math.random() * 300)
        raw(client)?.terminate()
      }
    })
    await Promise.all(
      Array.from({ length: 8 }, async (_, writer) => {
        const client = new pg.Client(dbUri)
        await client.connect()
        for (let n = 0; n < 30; n++) {
          await client.query('begin')
          await client.query(`select pgws.publish_text('kept', $1)`, [`${writer} ${n}`])
          await sleep(Math.random() * 20)
          await client.query(n % 7 === 3 ? 'rollback' : 'commit')
        }
        await client.end()
      })
    )
    over = true
    await Promise.all(wandering)
    await query(dbUri, 'select pgws.catch_up()')
    const { rows } = await query(
      dbUri,
      `select body::jsonb ->> 'payload' as payload from pgws.messages order by position`
    )
    const expected = rows.map(({ payload }) => payload)
    for (const { got, contexts } of clients) {
      await until(() => got.length >= expected.length)
      t.same(
        got.map(({ data }) => data),
        expected
      )
      t.ok(contexts.slice(1).every(({ wasRecovering, recovered }) => wasRecovering && recovered))
    }
  }
)

t.test('sockets survive a crash of PostgreSQL, and no committed message is missed', async (t) => {
  const server = await testPostgres(t, { fsync: 'on', synchronous_commit: 'on' })
  const dbUri = await retaining(server)
  const node = await build(t, { dbUri, checkListenerInterval: 300 })
  const { client, got, contexts } = wanderer(t, [node])
  await client.ready(30_000)
  await client.publish('kept', 1)
  await until(() => got.length === 1)
  process.kill(server.pid, 'SIGKILL')
  await until(() => !node.fastify.pgws.listenerState.up)
  await t.rejects(client.publish('kept', 'lost'), { code: 100 })
  await restartPostgres(t, server)
  await until(() => node.fastify.pgws.listenerState.up)
  await client.publish('kept', 2)
  await until(() => got.length === 2)
  t.same(
    got.map(({ data }) => data),
    [1, 2]
  )
  t.equal(contexts.length, 1)
})

t.test('an oversized message while the database is away does not stop reading its client', async (t) => {
  const dbUri = await createDatabase(postgres)
  const proxy = await FaultProxy.start(t, `${postgres.socketFolder}/.s.PGSQL.5432`)
  const { ws, fastify } = await build(t, { dbUri: proxy.uri(dbUri), checkListenerInterval: 300 })
  const client = await open(t, `${ws}/connection/websocket`)
  client.send(JSON.stringify({ id: 1, connect: { token: rw } }))
  await client.received(1)
  proxy.mode = 'refuse'
  proxy.cut()
  await until(() => !fastify.pgws.listenerState.up)
  client.send(JSON.stringify({ id: 2, publish: { channel: 'a', data: 'x'.repeat(10_000) } }))
  await client.received(2)
  client.send(JSON.stringify({ id: 3, ping: {} }))
  t.match(
    (await client.received(3)).map((text) => JSON.parse(text)),
    [{ id: 1 }, { id: 2, error: { code: 106 } }, { id: 3, ping: {} }]
  )
  proxy.mode = 'pass'
})

t.test('clients of a node that is killed recover on another node', async (t) => {
  const dbUri = await retaining()
  const environment = {
    PGWS_DB_URI: dbUri,
    PGWS_JWT_SECRET: SECRET,
    PGWS_CHECK_LISTENER_INTERVAL: '1000000'
  }
  const nodes = [await started(await run(t, environment)), await started(await run(t, environment))]
  const clients = Array.from({ length: 6 }, () => wanderer(t, nodes))
  await Promise.all(clients.map(({ subscription }) => subscription.ready(30_000)))
  let sent = 0
  let over = false
  const sending = (async () => {
    while (!over) await query(dbUri, `select pgws.publish('kept', $1)`, [++sent])
  })()
  await until(() => clients.every(({ got }) => got.length > 5))
  nodes[0]!.child.kill('SIGKILL')
  await sleep(500)
  over = true
  await sending
  for (const { got, contexts } of clients) {
    await until(() => got.length >= sent)
    t.same(
      got.map(({ data }) => data),
      Array.from({ length: sent }, (_, n) => n + 1)
    )
    t.ok(contexts.slice(1).every(({ recovered }) => recovered))
  }
})

t.test('1,000 clients that recover at once', async (t) => {
  const dbUri = await retaining()
  const { ws } = await build(t, { dbUri })
  await query(dbUri, `select pgws.publish('kept', to_jsonb(n)) from generate_series(1, 200) n`)
  await query(dbUri, 'select pgws.catch_up()')
  const { rows } = await query(
    dbUri,
    `select (select min(position) from pgws.messages)::int as first, (select epoch from pgws.settings) as epoch`
  )
  const { first, epoch } = rows[0]
  // On a busy machine this many concurrent handshakes take too long.
  const webSockets: WebSocket[] = []
  t.teardown(() => {
    for (const webSocket of webSockets) webSocket.terminate()
  })
  while (webSockets.length < 1000) {
    const opened = Array.from({ length: 100 }, () => new WebSocket(`${ws}/connection/websocket`))
    webSockets.push(...opened)
    await Promise.all(opened.map((webSocket) => once(webSocket, 'open')))
    // At once, because the server closes those that do not connect in time.
    for (const webSocket of opened) webSocket.send(JSON.stringify({ id: 1, connect: { token: rw } }))
  }
  const counts = await Promise.all(
    webSockets.map((webSocket, i) => {
      const offset = first - 1 + (i % 100)
      const subscribe = { channel: 'kept', recover: true, offset, epoch }
      webSocket.send(JSON.stringify({ id: 2, subscribe }))
      return new Promise<number>((resolve, reject) => {
        webSocket.on('error', reject)
        webSocket.on('close', (code) => reject(new Error(`closed with ${code}`)))
        webSocket.on('message', (data) => {
          const { id, subscribe } = JSON.parse(data.toString())
          if (id !== 2) return
          const { recovered, publications } = subscribe
          const right =
            recovered &&
            publications.every(({ data }: { data: number }, n: number) => data === (i % 100) + n + 1)
          resolve(right ? publications.length : -1)
        })
      })
    })
  )
  t.same(
    counts,
    Array.from({ length: 1000 }, (_, i) => 200 - (i % 100))
  )
})

t.test('an impossible position does not end the client: it subscribes again', async (t) => {
  const dbUri = await retaining()
  await query(
    dbUri,
    `insert into pgws.messages (position, channel, body, expires_at)
     values (9223372036854775807, 'other', '{"channel":"other","payload":1}', 'infinity')`
  )
  const { client, subscription, got, contexts } = wanderer(t, [await build(t, { dbUri })])
  const ends: string[] = []
  client.on('disconnected', ({ code, reason }) => ends.push(`${code} ${reason}`))
  await subscription.ready(30_000)
  await query(dbUri, `delete from pgws.messages`)
  raw(client)?.terminate()
  await until(() => contexts.length === 2 || ends.length > 0)
  t.same(ends, [])
  await client.publish('kept', 'after')
  await until(() => got.length === 1)
  t.match(contexts[1], { wasRecovering: true, recovered: false })
})
