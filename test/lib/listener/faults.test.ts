import dns from 'node:dns'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { FaultProxy } from '../../support/fault-proxy.js'
import { build, notify, open, query, sqlListener, token, until } from '../../support/helper.js'
import { type Cluster, createDatabase, sharedPostgres, testPostgres } from '../../support/postgres.js'
import { survivesRestart } from '../../support/restart.js'

const reader = token({ mode: 'r' })
const writer = token({ mode: 'w' })
const checkListenerInterval = 300

const postgres = await sharedPostgres(t)
const socket = (server: Cluster) => join(server.socketFolder, '.s.PGSQL.5432')

/** A server whose connections go through one proxy each. */
async function faulty(t: Test, options: object = {}) {
  const dbUri = await createDatabase(postgres)
  const listenerProxy = await FaultProxy.start(t, socket(postgres))
  const poolProxy = await FaultProxy.start(t, socket(postgres))
  const app = await build(t, {
    dbUri: poolProxy.uri(dbUri),
    listenerUri: listenerProxy.uri(dbUri),
    checkListenerInterval,
    metaChannel: 'meta',
    ...options
  })
  const gaps: number[] = []
  app.fastify.pgws.on('reconnected', ({ gap }) => gaps.push(gap))
  const client = await open(t, `${app.ws}/a/${reader}`)
  const meta = await open(t, `${app.ws}/meta/${reader}`)
  return { ...app, dbUri, listenerProxy, poolProxy, gaps, client, meta }
}

type Faulty = Awaited<ReturnType<typeof faulty>>

/** Waits until the listener has passed another check. */
async function checked({ fastify }: Faulty) {
  const before = fastify.pgws.listenerState.lastProvenAlive!
  await until(() => fastify.pgws.listenerState.lastProvenAlive! > before)
}

/** Causes a fault, and checks that it is noticed and repaired while the sockets stay open. */
async function heals(t: Test, app: Faulty, fault: () => unknown) {
  await fault()
  await until(() => app.gaps.length > 0)
  await notify(app.dbUri, '{"channel":"a","payload":"after"}')
  t.same(await app.client.received(1), ['{"channel":"a","payload":"after"}'])
  const isReconnect = (text: string) => text.includes('"ListenerReconnected"')
  await until(() => app.meta.messages.some(isReconnect))
  const { event, payload } = JSON.parse(app.meta.messages.find(isReconnect)!)
  t.equal(event, 'ListenerReconnected')
  t.equal(payload.gap, app.gaps[0])
  t.ok(app.lines.some((line) => line.includes('may be lost')))
  const metrics = await (await fetch(`${app.http}/metrics`)).text()
  t.match(metrics, /pgws_listener_reconnects_total 1\n/)
  t.match(metrics, new RegExp(`pgws_listener_gap_seconds_total ${app.gaps[0]! / 1000}\n`))
}

t.test('replaces a half-open listener; the gap counts from when it last received anything', async (t) => {
  const app = await faulty(t)
  await checked(app)
  let silentSince = 0
  await heals(t, app, async () => {
    app.listenerProxy.silence()
    // Notifications that were on their way arrive in the next turns.
    for (let turn = 0; turn < 3; turn++) await setImmediate()
    silentSince = Date.now()
  })
  const { upSince } = app.fastify.pgws.listenerState
  t.ok(upSince! - app.gaps[0]! <= silentSince, 'it begins before the silence')
})

t.test('replaces a terminated backend at once', async (t) => {
  // No check runs in the meantime.
  const app = await faulty(t, { checkListenerInterval: 3_600_000 })
  await heals(t, app, () =>
    query(
      app.dbUri,
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%listener' and datname = current_database()"
    )
  )
})

t.test('replaces a listener that lost its registrations (DISCARD ALL)', async (t) => {
  const app = await faulty(t)
  await heals(t, app, () => app.listenerProxy.inject('DISCARD ALL'))
})

t.test('replaces a connection that breaks in the middle of a message', async (t) => {
  const app = await faulty(t)
  app.listenerProxy.cutAfter(20)
  await heals(t, app, () => notify(app.dbUri, '{"channel":"b"}'))
})

t.test('a slow network is no fault', async (t) => {
  const app = await faulty(t)
  app.listenerProxy.delay = 150
  app.poolProxy.delay = 150
  for (let check = 0; check < 3; check++) await checked(app)
  await app.fastify.pgws.publish('a', 1)
  await app.client.received(1)
  t.same(app.gaps, [])
})

t.test('follows a failover to another address behind the same name', async (t) => {
  const dbUri = await createDatabase(postgres)
  const old = await FaultProxy.start(t, socket(postgres))
  const next = await FaultProxy.start(t, socket(postgres), '127.0.0.2', old.port)
  const { lookup } = dns
  let address = '127.0.0.1'
  dns.lookup = ((name: string, ...rest: never[]) =>
    (lookup as (...all: unknown[]) => void)(name === 'db.test' ? address : name, ...rest)) as typeof lookup
  t.teardown(() => {
    dns.lookup = lookup
  })
  const { fastify, ws } = await build(t, { dbUri: old.uri(dbUri, 'db.test'), checkListenerInterval })
  const client = await open(t, `${ws}/a/${reader}`)
  await fastify.pgws.publish('a', 1)
  await client.received(1)
  const reconnected = new Promise((resolve) => fastify.pgws.once('reconnected', resolve))
  address = '127.0.0.2'
  old.mode = 'refuse'
  old.silence()
  await reconnected
  // The connections of the pool took the same route, and are not used again.
  await fastify.pgws.publish('a', 2)
  await client.received(2)
  t.ok(next.connections >= 2)
})

// test/slow/restarts.test.ts tests the other signals.
t.test('survives a PostgreSQL that is stopped with SIGQUIT and started again', (t) =>
  survivesRestart(t, 'SIGQUIT')
)

t.test("gives up sending a socket's message after publishTimeout, and closes with 1011", async (t) => {
  const app = await faulty(t, { publishTimeout: 500 })
  const sender = await open(t, `${app.ws}/a/${writer}`)
  for (const proxy of [app.listenerProxy, app.poolProxy]) {
    proxy.mode = 'refuse'
    proxy.cut()
  }
  await until(() => !app.fastify.pgws.listenerState.up)
  sender.send('too late')
  t.same(await sender.closed(), { code: 1011, reason: 'message not published' })
  await t.rejects(app.fastify.pgws.publish('a', 1), { code: 'FST_PGWS_DATABASE_UNAVAILABLE' })
  t.equal(app.client.webSocket.readyState, 1)
})

t.test('pauses senders while the database is unavailable, and keeps only a limited amount', async (t) => {
  const app = await faulty(t)
  const sender = await open(t, `${app.ws}/a/${writer}`)
  for (const proxy of [app.listenerProxy, app.poolProxy]) {
    proxy.mode = 'refuse'
    proxy.cut()
  }
  await until(() => !app.fastify.pgws.listenerState.up)
  const count = 10_000
  for (let i = 0; i < count; i++) sender.send(`${i} ${'x'.repeat(2000)}`)
  const metrics = async () => (await fetch(`${app.http}/metrics`)).text()
  await until(async () => /pgws_paused_sockets 1\n/.test(await metrics()))
  t.ok(sender.webSocket.bufferedAmount > 5_000_000, 'the sender keeps what is not read')
  t.ok(Number(/pgws_messages_received_total (\d+)/.exec(await metrics())![1]) < count / 2)
  for (const proxy of [app.listenerProxy, app.poolProxy]) proxy.mode = 'pass'
  await app.client.received(count)
  const numbers = app.client.messages.map((text) => Number.parseInt(JSON.parse(text).payload, 10))
  t.same(
    numbers,
    Array.from({ length: count }, (_, i) => i)
  )
})

t.test('does not repeat a statement with an unknown outcome, and reports it to the sender', async (t) => {
  const app = await faulty(t)
  const { payloads } = await sqlListener(t, app.dbUri)
  const sender = await open(t, `${app.ws}/a/${writer}`)
  sender.send('first')
  await until(() => payloads.some((text) => text.includes('first')))
  // The statement reaches PostgreSQL, and its answer is lost.
  app.poolProxy.cutAfter(0)
  sender.send('second')
  t.equal((await sender.closed()).code, 1011)
  await app.fastify.pgws.publish('a', 'third')
  await until(() => payloads.some((text) => text.includes('third')))
  t.equal(payloads.filter((text) => text.includes('second')).length, 1)
})

t.test('replaces broken publishing connections', async (t) => {
  const app = await faulty(t)
  const lost = () => app.lines.filter((line) => line.includes('a publishing connection was lost')).length
  for (let i = 0; i < 5; i++) {
    await app.fastify.pgws.publish('a', i)
    const noticed = lost() + app.poolProxy.connections
    app.poolProxy.cut()
    await until(() => lost() === noticed)
  }
  t.same(
    (await app.client.received(5)).map((text) => JSON.parse(text).payload),
    [0, 1, 2, 3, 4]
  )
})

t.test('a message that the database rejects does not affect others', async (t) => {
  const admin = await createDatabase(postgres)
  const name = `latin_${Date.now()}`
  await query(admin, `create database ${name} encoding latin1 locale 'C' template template0`)
  const dbUri = admin.replace(/\/[^/?]+\?/, `/${name}?`)
  const { ws } = await build(t, { dbUri })
  const client = await open(t, `${ws}/a/${reader}`)
  const senders = await Promise.all(Array.from({ length: 20 }, () => open(t, `${ws}/a/${writer}`)))
  const refused = senders[7]!.closed()
  // LATIN1 cannot store one of them.
  for (const [i, sender] of senders.entries()) sender.send(i === 7 ? 'five € please' : `number ${i}`)
  t.equal((await refused).code, 1007)
  const got = (await client.received(19)).map((text) => JSON.parse(text).payload)
  t.equal(new Set(got).size, 19)
  for (const [i, sender] of senders.entries()) if (i !== 7) t.equal(sender.webSocket.readyState, 1)
})

t.test('a full notification queue degrades health, and is an error for the publisher', async (t) => {
  const crowded = await testPostgres(t, { max_notify_queue_pages: '64' })
  const dbUri = await createDatabase(crowded)
  const { fastify, http, ws, lines } = await build(t, { dbUri, checkListenerInterval })
  const health = async () => {
    const response = await fetch(`${http}/health`)
    return {
      code: response.status,
      ...((await response.json()) as { status: string; notificationQueue: { usage: number } })
    }
  }
  const sender = await open(t, `${ws}/a/${writer}`)
  t.match(await health(), { code: 200, status: 'ok', notificationQueue: { usage: 0 } })
  // A session that listens and stays in a transaction blocks the queue.
  const { default: pg } = await import('pg')
  const holder = new pg.Client({ connectionString: dbUri, application_name: 'the one that sleeps' })
  await holder.connect()
  t.teardown(() => holder.end())
  await holder.query('listen something')
  await holder.query('begin; select 1')
  const fill = () =>
    query(dbUri, "select count(pg_notify('other', n || repeat('x', 7900))) from generate_series(1, 8) n")
  while ((await health()).notificationQueue.usage <= 0.5) await fill()
  t.match(await health(), { code: 200, status: 'degraded' })
  t.match(
    lines.find((line) => line.includes('notification queue is filling up')),
    /the one that sleeps/
  )
  t.match(await (await fetch(`${http}/metrics`)).text(), /pgws_notification_queue_usage_ratio 0\.[5-9]/)
  await t.rejects(
    (async () => {
      for (;;) await fill()
    })(),
    { message: /NOTIFY queue/ }
  )
  // The listener's check is a notification, too. A check that cannot be sent proves nothing about the
  // connection, so it stays.
  const probes = new Set<number>()
  await until(async () => {
    const { rows } = await query(
      dbUri,
      `select query_start from pg_stat_activity
         where datname = current_database() and application_name like '%listener' and query like '%pg_listening%'`
    )
    for (const { query_start } of rows) probes.add(Number(query_start))
    return probes.size > 2
  })
  t.match(fastify.pgws.listenerState, { up: true, reconnects: 0 })
  for (;;) {
    const failure = await fastify.pgws.publish('a', 'x'.repeat(7000)).catch((error) => error)
    if (failure === undefined) continue
    t.match(failure, { code: 'FST_PGWS_NOT_ACCEPTED', statusCode: 503 })
    break
  }
  sender.send('x'.repeat(7000))
  t.equal((await sender.closed()).code, 1011)
  await holder.query('commit')
  await until(async () => (await health()).status === 'ok')
  await fastify.pgws.publish('a', 'again')
})
