import t, { type Test } from 'tap'
import type { EmbeddedPostgres } from '../../lib/embedded-postgres/server.js'
import { type App, freePort, run, started } from '../support/app.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { build, type Client, install, notify, open, query, SECRET, token, until } from '../support/helper.js'
import { createDatabase, testPostgres } from '../support/postgres.js'
import { sdk, subscribed } from '../support/sdk.js'
import { portOf, type ReplicationOptions, withStandby } from '../support/standby.js'

const reader = token({ mode: 'r' })
const writer = token({ mode: 'w' })
const rw = token({ mode: 'rw' })
const checkListenerInterval = 300
const SERVER = {
  PGWS_JWT_SECRET: SECRET,
  PGWS_HOST: '127.0.0.1',
  PGWS_CHECK_LISTENER_INTERVAL: String(checkListenerInterval),
  // However long this machine takes for it.
  PGWS_PUBLISH_TIMEOUT: '60000'
}

const payloadsOf = ({ messages }: Client) => messages.map((text) => JSON.parse(text).payload)
const numbered = (word: string, count = 20) => Array.from({ length: count }, (_, n) => `${word} ${n}`)

async function healthOf({ http }: Pick<App, 'http'>) {
  const response = await fetch(`${http}/health`)
  return { code: response.status, body: (await response.json()) as Record<string, unknown> }
}

/** A primary and a standby with a database where the channel `kept` is durable. */
async function replicated(t: Test, options: ReplicationOptions = {}) {
  const replication = await withStandby(t, options)
  const dbUri = await createDatabase(replication.primary)
  await install(dbUri, 'kept')
  await replication.replicated()
  return { replication, dbUri }
}

/** The number of this package's sessions in a database. */
async function sessionsOn(server: EmbeddedPostgres, dbUri: string): Promise<number> {
  const { rows } = await query(
    server.uri,
    `select count(*)::int as count from pg_stat_activity
     where application_name like 'fastify-pg-websockets%' and $1 like '%/' || datname || '?%'`,
    [dbUri]
  )
  return rows[0]!.count
}

for (const signal of ['SIGKILL', 'SIGQUIT', 'SIGINT'] as const) {
  t.test(`continues with the promoted standby after ${signal} to the primary`, async (t) => {
    const { replication, dbUri } = await replicated(t)
    const app = await started(await run(t, { ...SERVER, PGWS_DB_URI: replication.uri(dbUri) }))
    await until(async () => (await healthOf(app)).code === 200)
    const plain = await open(t, `${app.ws}/plain/${reader}`)
    const kept = await open(t, `${app.ws}/kept/${reader}?since=earliest`)
    const toPlain = await open(t, `${app.ws}/plain/${writer}`)
    const toKept = await open(t, `${app.ws}/kept/${writer}`)
    const client = sdk(t, app.ws, { token: rw })
    const sdkPlain = subscribed(client, 'plain')
    const sdkKept = subscribed(client, 'kept')
    client.connect()
    await Promise.all([sdkPlain.subscription.ready(60_000), sdkKept.subscription.ready(60_000)])
    /** Waits until all readers have this message of each channel. */
    const all = async (payload: string) => {
      await until(() => payloadsOf(plain).includes(payload) && payloadsOf(kept).includes(payload))
      await until(() => [sdkPlain, sdkKept].every(({ got }) => got.some(({ data }) => data === payload)))
    }
    const send = (payload: string) => {
      toPlain.send(payload)
      toKept.send(payload)
    }

    for (const payload of numbered('before')) send(payload)
    await all('before 19')
    await replication.replicated()
    const last = JSON.parse(kept.messages.at(-1)!).id

    await replication.killPrimary(signal)
    await until(async () => (await healthOf(app)).code === 503)
    // The standby answers, and is skipped.
    await until(() =>
      app.output().includes(`127.0.0.1:${portOf(replication.standby)} failed: the session is not read-write`)
    )
    t.match((await healthOf(app)).body, {
      status: 'unavailable',
      listener: { status: 'down' },
      pool: { status: 'down' }
    })
    const refused = await fetch(`${app.http}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${writer}`, 'content-type': 'application/json' },
      body: '{"channel":"kept","payload":"refused"}'
    })
    t.equal(refused.status, 503)
    t.ok(Number(refused.headers.get('retry-after')) > 0)
    for (const payload of numbered('meanwhile')) send(payload)

    await replication.promote()
    await until(async () => (await healthOf(app)).code === 200)
    t.match((await healthOf(app)).body, { status: 'ok', listener: { status: 'up' }, pool: { status: 'up' } })
    await Promise.all([plain.received(40), kept.received(40)])
    // SDKs subscribe again to channels that are not durable, so the client knows that messages may be missing.
    await until(() => sdkPlain.contexts.length === 2)
    for (const payload of numbered('after')) send(payload)
    await all('after 19')
    const promoted = replication.onStandby(dbUri)
    await notify(promoted, '{"channel":"plain","payload":"by SQL"}')
    await query(promoted, `select pgws.publish_text('kept', 'by SQL')`)
    await all('by SQL')
    await client.publish('plain', 'by SDK')
    await client.publish('kept', 'by SDK')
    await all('by SDK')

    const expected = [
      ...numbered('before'),
      ...numbered('meanwhile'),
      ...numbered('after'),
      'by SQL',
      'by SDK'
    ]
    t.same(payloadsOf(plain), expected)
    t.same(payloadsOf(kept), expected)
    const inSdk = sdkPlain.got.map(({ data }) => String(data))
    t.same(
      inSdk.filter((payload) => !payload.startsWith('meanwhile')),
      expected.filter((payload) => !payload.startsWith('meanwhile'))
    )
    t.same(
      expected.filter((payload) => inSdk.includes(payload)),
      inSdk
    )
    t.same(
      sdkKept.got.map(({ data }) => data),
      expected
    )
    const { rows } = await query(
      promoted,
      `select message::json ->> 'payload' as payload from pgws.history('kept', null, 1000)`
    )
    t.same(
      rows.map(({ payload }) => payload),
      expected
    )
    // An id from the old primary is valid on the new one.
    const late = await open(t, `${app.ws}/kept/${reader}?since=${last}`)
    await late.received(42)
    t.same(payloadsOf(late), expected.slice(20))
    for (const { webSocket } of [plain, kept, toPlain, toKept]) t.equal(webSocket.readyState, 1)
    t.equal(client.state, 'connected')
    t.same([sdkPlain.contexts.length, sdkKept.contexts.length], [2, 1])
  })
}

t.test(
  'replays what a synchronous standby has, although the primary was killed before its notification',
  async (t) => {
    const { replication, dbUri } = await replicated(t, { synchronous: true })
    const { primary, standby } = replication
    const proxy = await FaultProxy.start(t, portOf(primary))
    const { fastify, ws } = await build(t, {
      dbUri: replication.uri(dbUri),
      listenerUri: replication.uri(dbUri, [`127.0.0.1:${proxy.port}`, standby]),
      checkListenerInterval
    })
    const gaps: number[] = []
    fastify.pgws.on('reconnected', ({ gap }) => gaps.push(gap))
    const kept = await open(t, `${ws}/kept/${reader}?since=earliest`)
    const client = sdk(t, ws, { token: rw })
    const sdkKept = subscribed(client, 'kept')
    client.connect()
    await sdkKept.subscription.ready(60_000)
    const store = (uri: string, payloads: string[]) =>
      query(uri, `select pgws.publish_text('kept', p) from unnest($1::text[]) p`, [payloads])

    await store(dbUri, numbered('heard'))
    await kept.received(20)
    proxy.silence()
    await store(dbUri, numbered('unheard'))
    // Acknowledged messages are on the standby, too.
    await replication.killPrimary('SIGKILL')
    proxy.cut()
    await until(() => !fastify.pgws.listenerState.up)
    t.equal(kept.messages.length, 20)
    await replication.promote()
    await store(replication.onStandby(dbUri), numbered('new'))
    await kept.received(60)
    await until(() => sdkKept.got.length >= 60)
    await fastify.pgws.publish('kept', 'last')
    await kept.received(61)
    await until(() => sdkKept.got.length >= 61)
    const expected = [...numbered('heard'), ...numbered('unheard'), ...numbered('new'), 'last']
    t.same(payloadsOf(kept), expected)
    t.same(
      sdkKept.got.map(({ data }) => data),
      expected
    )
    t.equal(gaps.length, 1)
  }
)

t.test('finds the primary among the hosts', async (t) => {
  const { replication, dbUri } = await replicated(t)
  const { primary, standby } = replication
  // A separate primary that is read-only.
  const readOnly = await testPostgres(t, {
    listen_addresses: '127.0.0.1',
    port: String(await freePort()),
    default_transaction_read_only: 'on'
  })
  const gone = `127.0.0.1:${await freePort()}`
  const cases: [string, (EmbeddedPostgres | string)[], string][] = [
    ['first', [primary, standby], 'read-write'],
    ['last', [standby, primary], 'read-write'],
    ['behind one that is gone, and one that may only be read', [gone, readOnly, primary], 'read-write'],
    ['last, where nothing says which one is wanted', [standby, primary], '']
  ]
  for (const [title, hosts, attributes] of cases) {
    await t.test(title, async (t) => {
      const uri = hosts.includes(readOnly) ? primary.uri : dbUri
      const { http, ws } = await build(t, {
        dbUri: replication.uri(uri, hosts, attributes),
        checkListenerInterval
      })
      const client = await open(t, `${ws}/kept/${rw}`)
      client.send('x')
      await client.received(1)
      t.match(await healthOf({ http }), { code: 200, body: { status: 'ok' } })
      t.ok((await sessionsOn(primary, uri)) >= 2)
      for (const other of [standby, readOnly]) t.equal(await sessionsOn(other, uri), 0)
    })
  }
})

t.test(
  'returns to a primary that was unavailable for a while, even without target_session_attrs',
  async (t) => {
    const { replication, dbUri } = await replicated(t)
    const { primary, standby } = replication
    const { fastify, http, ws } = await build(t, {
      dbUri: replication.uri(dbUri, [primary, standby], ''),
      checkListenerInterval
    })
    const client = await open(t, `${ws}/kept/${rw}`)
    await replication.killPrimary('SIGKILL')
    await until(async () => (await healthOf({ http })).code === 503)
    client.send('x')
    await primary.restart()
    await client.received(1)
    await until(async () => (await healthOf({ http })).body.status === 'ok')
    await fastify.pgws.publish('kept', 'y')
    await client.received(2)
    t.same(payloadsOf(client), ['x', 'y'])
    t.equal(await sessionsOn(standby, dbUri), 0)
  }
)

t.test('a server that starts while there is only a standby waits for its promotion', async (t) => {
  const { replication, dbUri } = await replicated(t)
  await replication.killPrimary('SIGKILL')
  const app = await started(await run(t, { ...SERVER, PGWS_DB_URI: replication.uri(dbUri) }))
  t.equal((await healthOf(app)).code, 503)
  await until(() => app.output().includes('the session is not read-write'))
  await replication.promote()
  await until(async () => (await healthOf(app)).code === 200)
  const client = await open(t, `${app.ws}/kept/${rw}`)
  client.send('x')
  await client.received(1)
})

t.test('reports a history gap to readers after the failover to a standby that lacks messages', async (t) => {
  const { replication, dbUri } = await replicated(t)
  const { primary, standby } = replication
  const way = await FaultProxy.start(t, portOf(standby))
  const hosts = [primary, `127.0.0.1:${way.port}`]
  const { fastify, ws } = await build(t, { dbUri: replication.uri(dbUri, hosts), checkListenerInterval })
  const kept = await open(t, `${ws}/kept/${reader}?since=earliest`)
  const store = (uri: string, word: string, count: number) =>
    query(uri, `select pgws.publish_text('kept', $1 || n) from generate_series(1, $2) n`, [word, count])
  await store(dbUri, 'both ', 5)
  await kept.received(5)
  await replication.replicated()
  replication.link.mode = 'refuse'
  replication.link.cut()
  await store(dbUri, 'lost ', 50)
  await kept.received(55)
  // Until a probe has proved that all of them have arrived.
  const { lastProvenAlive } = fastify.pgws.listenerState
  await until(
    () => fastify.pgws.listenerState.lastProvenAlive! > lastProvenAlive! + 3 * checkListenerInterval
  )
  way.mode = 'refuse'
  await replication.killPrimary('SIGKILL')
  await until(() => !fastify.pgws.listenerState.up)
  await replication.promote()
  // Enough to use the same positions again, and more, before this server connects.
  await store(replication.onStandby(dbUri), 'new ', 100)
  way.mode = 'pass'
  await until(() => fastify.pgws.listenerState.up)
  await store(replication.onStandby(dbUri), 'live ', 1)
  await until(() => payloadsOf(kept).includes('live 1'))
  const after = kept.messages.slice(55).map((text) => JSON.parse(text))
  t.match(after[0], { pgws: true, event: 'HistoryGap', channel: 'kept' })
  t.same(
    after
      .slice(1)
      .map(({ payload }) => payload)
      .slice(-2),
    ['new 100', 'live 1'],
    'messages after the last known position are replayed'
  )
  t.match(await fastify.pgws.health(), { status: 'degraded', delivery: { failures: ['diverged'] } })
})
