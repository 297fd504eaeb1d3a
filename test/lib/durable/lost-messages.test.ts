import { join } from 'node:path'
import pg from 'pg'
import t, { type Test } from 'tap'
import { type Format, type Frame, Hub, type Subscriber } from '../../../lib/channels/index.js'
import type { Message } from '../../../lib/messages/message.js'
import { FaultProxy } from '../../support/fault-proxy.js'
import { build, type Client, notify, open, query, token, until, withPostgres } from '../../support/helper.js'
import { sdk, subscribed } from '../../support/sdk.js'

const { postgres, migrated } = await withPostgres(t)
const reader = token({ mode: 'r' })

/**
 * A database with the schema and a durable channel, and a server role that owns nothing, so that its
 * privileges can be revoked.
 */
async function installed(t: Test) {
  const dbUri = await migrated('durable')
  const admin = new pg.Client(dbUri)
  await admin.connect()
  t.teardown(() => admin.end())
  const { rows } = await admin.query('select current_database() as name')
  const role = `server_${rows[0].name.slice(-8)}`
  // Without pgws_server, which all databases of the cluster share.
  await admin.query(
    `create role ${role} login; grant usage on schema pgws to ${role};
     grant select on all tables in schema pgws to ${role}; grant select on all sequences in schema pgws to ${role};
     grant execute on all functions in schema pgws to ${role}`
  )
  const sql = (text: string, values?: unknown[]) => admin.query(text, values)
  return { dbUri, serverUri: dbUri.replace('postgres@', `${role}@`), role, sql }
}

async function losses(
  fastify: Awaited<ReturnType<typeof build>>['fastify']
): Promise<Record<string, number>> {
  const text = await fastify.pgws.metrics.registry.metrics()
  const found = text.matchAll(/pgws_lost_messages_total\{reason="(\w+)"\} (\d+)/g)
  return Object.fromEntries([...found].map(([, reason, count]) => [reason, Number(count)]))
}

const words = (client: Client) =>
  client.messages.map((text) => {
    const { pgws, event, payload } = JSON.parse(text)
    return pgws ? event : String(payload).slice(0, 20)
  })

t.test('malformed references do not delay other messages', async (t) => {
  const { dbUri } = await installed(t)
  const { ws, fastify, lines } = await build(t, { dbUri })
  const client = await open(t, `${ws}/durable/${reader}`)
  const positions = ['0.5', '-1', '0', '1e300', '9007199254740993', '"7"', 'null', '[]', '{}', 'true']
  for (const table of ['message', 'large']) {
    for (const position of positions) {
      await notify(dbUri, `{"pgws":"${table}","position":${position},"channel":"durable"}`)
      await notify(dbUri, `{"pgws":"${table}","position":${position}}`)
    }
  }
  await query(dbUri, `select pgws.publish_text('durable', 'after them')`)
  await query(dbUri, `select pgws.publish_text('durable', repeat('x', 9000))`)
  await client.received(2)
  t.same(words(client), ['after them', 'x'.repeat(20)])
  t.same(await losses(fastify), { malformed: positions.length * 4 })
  // The server stays healthy, and logs one line a minute.
  t.match(await fastify.pgws.health(), { status: 'ok', delivery: { status: 'up', failures: [] } })
  t.equal(lines.filter((line) => line.includes('"reason":"malformed"')).length, 1)
})

t.test('reports a gap to readers of a durable channel for deleted rows', async (t) => {
  const { dbUri } = await installed(t)
  const { ws, fastify } = await build(t, { dbUri })
  const durable = await open(t, `${ws}/durable/${reader}`)
  const plain = await open(t, `${ws}/plain/${reader}`)
  await notify(dbUri, '{"pgws":"message","position":900000,"channel":"durable"}')
  await notify(dbUri, '{"pgws":"large","position":900000,"channel":"plain"}')
  // The name of its channel is too long for a reference, so no client can be in that channel.
  await notify(dbUri, '{"pgws":"message","position":900001}')
  for (const channel of ['durable', 'plain']) await fastify.pgws.publish(channel, 'after it')
  await durable.received(2)
  await plain.received(1)
  t.same(words(durable), ['HistoryGap', 'after it'])
  t.same(words(plain), ['after it'])
  t.same(await losses(fastify), { gone: 3 })
})

t.test('tables that cannot be read do not delay other messages, and health reports them', async (t) => {
  const { serverUri, role, sql } = await installed(t)
  const { ws, http, fastify } = await build(t, { dbUri: serverUri })
  const plain = await open(t, `${ws}/plain/${reader}`)
  const durable = await open(t, `${ws}/durable/${reader}`)
  const client = sdk(t, ws, { token: reader })
  const { subscription, got } = subscribed(client, 'durable')
  client.connect()
  await subscription.ready()
  t.match(await fastify.pgws.health(), { status: 'ok' })

  await sql(`revoke select on pgws.large from ${role}`)
  await sql(`select pgws.publish_text('plain', repeat(n::text, 9000)) from generate_series(1, 3) n`)
  await sql(`select pgws.publish_text('durable', repeat('large', 9000))`)
  await sql(`select pgws.publish_text('plain', 'after it'), pgws.publish_text('durable', 'after it')`)
  await plain.received(1)
  await durable.received(2)
  t.same(words(plain), ['after it'])
  // This one is in another table.
  t.same(words(durable), ['large'.repeat(4), 'after it'])
  t.same(await losses(fastify), { unreadable: 3 })
  const health = await fetch(`${http}/health`)
  t.equal(health.status, 200)
  t.match(await health.json(), {
    status: 'degraded',
    delivery: { status: 'degraded', failures: ['unreadable'] }
  })

  await until(() => got.length === 2)
  await sql(`revoke select on pgws.messages from ${role}`)
  await sql(`select pgws.publish_text('durable', repeat('lost', 9000)), pgws.publish_text('durable', 'then')`)
  await durable.received(4)
  t.same(words(durable).slice(2), ['HistoryGap', 'then'])
  t.same(await losses(fastify), { unreadable: 4 })

  // A client that resumes gets the gap, too, and continues live.
  const late = await open(t, `${ws}/durable/${reader}?since=earliest`)
  await late.received(1)
  await sql(`select pgws.publish_text('durable', 'live')`)
  await late.received(2)
  t.same(words(late), ['HistoryGap', 'live'])

  await sql(`grant select on pgws.messages, pgws.large to ${role}`)
  await sql(`select pgws.publish_text('plain', repeat('again', 9000))`)
  await plain.received(2)
  // The SDK was unsubscribed. It subscribes again until it succeeds.
  await until(() => got.some(({ data }) => data === 'live'), 60_000)
})

t.test('reports a gap at once if the missed messages may not be read, and continues live', async (t) => {
  const { dbUri, serverUri, role, sql } = await installed(t)
  const { ws, fastify } = await build(t, { dbUri: serverUri, checkListenerInterval: 60_000 })
  const durable = await open(t, `${ws}/durable/${reader}`)
  const plain = await open(t, `${ws}/plain/${reader}`)
  await sql(`select pgws.publish_text('durable', 'first')`)
  await durable.received(1)
  await sql(`revoke select on pgws.messages from ${role}`)
  await sql(
    `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'fastify-pg-websockets listener'
     and datname = current_database()`
  )
  await until(() => fastify.pgws.listenerState.reconnects === 1, 30_000)
  await notify(dbUri, '{"channel":"plain","payload":"live"}')
  await sql(`select pgws.publish_text('durable', 'live')`)
  await plain.received(1)
  await durable.received(3)
  t.same(words(durable), ['first', 'HistoryGap', 'live'])
  t.same(await losses(fastify), { unreplayed: 1 })
  t.match(await fastify.pgws.health(), { status: 'degraded', delivery: { failures: ['unreplayed'] } })
})

t.test('does not repeat a large message without readers to clients that have resumed since', async (t) => {
  const { dbUri, sql } = await installed(t)
  // No check of the listener runs in the meantime.
  const { ws, fastify } = await build(t, { dbUri, checkListenerInterval: 60_000 })
  const marker = await open(t, `${ws}/plain/${reader}`)
  await sql(`select pgws.publish_text('durable', repeat('large', 2000))`)
  await sql(`select pgws.publish_text('plain', 'behind it')`)
  await marker.received(1)
  const client = await open(t, `${ws}/durable/${reader}?since=earliest`)
  await client.received(1)
  // A client that has resumed skips what it already has until it receives something newer.
  await sql(`select pgws.publish_text('durable', 'live')`)
  await client.received(2)
  await sql(
    `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'fastify-pg-websockets listener'
     and datname = current_database()`
  )
  await until(() => fastify.pgws.listenerState.reconnects === 1, 30_000)
  await sql(`select pgws.publish_text('durable', 'after it')`)
  await client.received(3)
  t.same(words(client), ['large'.repeat(4), 'live', 'after it'])
})

t.test('a flood of notifications about the settings causes one query at a time', async (t) => {
  const { dbUri } = await installed(t)
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const { fastify } = await build(t, { dbUri: proxy.uri(dbUri), listenerUri: dbUri })
  const heard: string[] = []
  await fastify.pgws.listen('pgws', (payload) => heard.push(payload))
  const before = proxy.bytesFromServer
  await query(dbUri, `select pg_notify('pgws', n::text) from generate_series(1, 5000) n`)
  await until(() => heard.length === 5000)
  // Runs after everything that the pool was asked for.
  await fastify.pgws.publish('plain', 'after it')
  t.ok(proxy.bytesFromServer - before < 100_000, `${proxy.bytesFromServer - before} bytes of answers`)
  // The last change still takes effect.
  await query(dbUri, `select pgws.retain('late', '1 hour')`)
  const late = await open(t, `${(fastify.listeningOrigin ?? '').replace('http', 'ws')}/late/${reader}`)
  await until(async () => {
    await fastify.pgws.publish('late', 'x')
    return late.messages.some((text) => JSON.parse(text).id !== undefined)
  })
})

t.test('reports a gap in place of a row without a valid message, and continues', async (t) => {
  const { dbUri } = await installed(t)
  const { ws, http, fastify } = await build(t, { dbUri })
  const sql = (text: string) => query(dbUri, text)
  const first = sdk(t, ws, { token: reader })
  const before = subscribed(first, 'durable')
  first.connect()
  await before.subscription.ready()
  await sql(`select pgws.publish_text('durable', 'one')`)
  await until(() => before.got.length === 1)
  first.disconnect()
  const bodies = [
    'no json',
    '[1]',
    '5',
    '',
    '{}',
    '{"pgws":true}',
    `{"a":"${'x'.repeat(9000)}`,
    '{"encoding":"base64"}'
  ]
  // Bypasses the functions, as an owner may.
  for (const body of bodies) {
    await query(
      dbUri,
      `insert into pgws.messages (position, channel, body, expires_at)
       values (nextval('pgws.positions'), 'durable', $1, now() + interval '1 hour')`,
      [body]
    )
  }
  await sql(`select pgws.publish_text('durable', 'two')`)
  const late = await open(t, `${ws}/durable/${reader}?since=earliest`)
  await late.received(bodies.length + 2)
  t.same(words(late), ['one', ...bodies.slice(1).map(() => 'HistoryGap'), 'undefined', 'two'])
  const history = await fetch(`${http}/channels/durable/history`, {
    headers: { authorization: `Bearer ${reader}` }
  })
  t.equal(((await history.json()) as { messages: unknown[] }).messages.length, bodies.length + 2)
  // The SDK is told that it has missed something, and continues.
  first.connect()
  await until(() => before.contexts.length === 2)
  t.match(before.contexts[1], { wasRecovering: true, recovered: false })
  await fastify.pgws.publish('durable', 'three')
  await until(() => before.got.length === 2)
  t.match(before.got[1], { data: 'three' })
  const all = await before.subscription.history({ limit: 100 })
  t.same(
    all.publications.map(({ data }) => data),
    ['one', late.messages[bodies.length], 'two', 'three']
  )
})

t.test('a message that a format cannot encode disconnects only the readers in that format', async (t) => {
  const lost: unknown[] = []
  const hub = new Hub(
    (error) => t.fail(String(error)),
    (message, error) => lost.push([message.text, String(error)])
  )
  const format = (name: string): Format => ({
    encode({ text, position, serverEvent }: Message): Frame {
      if (text === `not for ${name}`) throw new RangeError('Invalid string length')
      return { bytes: Buffer.from(serverEvent?.event ?? text), position }
    }
  })
  const subscriber = (format: Format): Subscriber & { got: string[] } => {
    const got: string[] = []
    return { format, got, deliver: (frames) => got.push(...frames.map(({ bytes }) => bytes.toString())) }
  }
  const [a, b] = [subscriber(format('a')), subscriber(format('b'))]
  for (const one of [a, b]) hub.join(one, ['channel'], { read: true, write: false })
  t.equal(hub.deliver({ channel: 'channel', text: 'not for a' }), 1)
  hub.deliver({ channel: 'channel', text: 'not for b', position: 5 })
  hub.deliver({ channel: 'channel', text: 'after it' })
  hub.flush()
  t.same(a.got, ['not for b', 'after it'])
  t.same(b.got, ['not for a', 'HistoryGap', 'after it'])
  t.same(lost, [
    ['not for a', 'RangeError: Invalid string length'],
    ['not for b', 'RangeError: Invalid string length']
  ])
})
