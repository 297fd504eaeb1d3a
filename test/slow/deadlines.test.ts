// What happens after deadlines and intervals that no option shortens.
import { once } from 'node:events'
import { join } from 'node:path'
import t from 'tap'
import { FaultProxy } from '../support/fault-proxy.js'
import { build, type Client, open, query, token, until, withPostgres } from '../support/helper.js'

const { postgres, database, migrated } = await withPostgres(t)
const reader = token({ mode: 'r' })
const parsed = ({ messages }: Client) => messages.map((text) => JSON.parse(text))
const words = (client: Client) =>
  parsed(client).map(({ pgws, event, payload }) => (pgws ? event : String(payload).slice(0, 20)))

async function losses(
  fastify: Awaited<ReturnType<typeof build>>['fastify']
): Promise<Record<string, number>> {
  const text = await fastify.pgws.metrics.registry.metrics()
  const found = text.matchAll(/pgws_lost_messages_total\{reason="(\w+)"\} (\d+)/g)
  return Object.fromEntries([...found].map(([, reason, count]) => [reason, Number(count)]))
}

t.test('a pool that cannot connect delays the listener for a limited time', async (t) => {
  const dbUri = await migrated('durable')
  // Another node announces what is published in SQL, because this one cannot.
  const other = await build(t, { dbUri })
  await until(async () => (await other.fastify.pgws.health()).outbox?.sequencer)
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const { ws, fastify } = await build(t, { dbUri: proxy.uri(dbUri), listenerUri: dbUri })
  const client = await open(t, `${ws}/durable/${reader}`)
  await fastify.pgws.publish('durable', 'first')
  await client.received(1)
  proxy.mode = 'refuse'
  proxy.cut()
  await query(
    dbUri,
    `select pgws.publish_text('durable', repeat('x', 9000)), pgws.publish_text('durable', 'after it')`
  )
  await client.received(3, 60_000)
  t.same(words(client), ['first', 'HistoryGap', 'after it'])
  t.same(await losses(fastify), { unreadable: 1 })
  t.equal(fastify.pgws.listenerState.reconnects, 0)

  // The same applies to messages that were missed while the listener was disconnected.
  await query(
    dbUri,
    `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'fastify-pg-websockets listener'
     and datname = current_database()`
  )
  await until(() => fastify.pgws.listenerState.reconnects === 1, 30_000)
  await query(dbUri, `select pgws.publish_text('durable', 'live')`)
  await client.received(5, 60_000)
  t.same(words(client).slice(3), ['HistoryGap', 'live'])
  t.same(await losses(fastify), { unreadable: 1, unreplayed: 1 })
  proxy.mode = 'pass'
})

t.test('a function that never returns is cancelled, its message rejected; the others arrive', async (t) => {
  const dbUri = await migrated()
  await query(
    dbUri,
    `create schema app;
     create function app.on_message(message jsonb) returns jsonb language plpgsql as $$
     begin
       if message ->> 'payload' = 'slow' then perform pg_sleep(60); end if;
       return message;
     end $$`
  )
  const { ws, http } = await build(t, { dbUri, onMessageFunction: 'app.on_message' })
  const client = await open(t, `${ws}/a/${reader}`)
  const slow = fetch(`${http}/publish`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token({ mode: 'rw' })}`, 'content-type': 'application/json' },
    body: '{"channel":"a","payload":"slow"}'
  })
  const informed = await open(t, `${ws}/a/${token({ mode: 'w' })}?rejections=true`)
  for (const text of ['one', 'slow', 'two']) informed.send(text)
  t.match(await (await slow).json(), { statusCode: 422, sqlstate: '57014' })
  await client.received(2)
  t.same(words(client), ['one', 'two'])
  t.match(JSON.parse((await informed.received(1))[0]!), { event: 'Rejected', payload: { sqlstate: '57014' } })
})

t.test('a revocation whose notification was lost is noticed', async (t) => {
  const dbUri = await migrated()
  const { ws } = await build(t, { dbUri })
  const socket = await open(t, `${ws}/a/${token({ mode: 'rw', jti: 'one' })}`)
  const closed = socket.closed()
  // As if the notification were lost on its way.
  await query(
    dbUri,
    `begin; alter table pgws.revocations disable trigger notify; select pgws.revoke(jti => 'one');
     alter table pgws.revocations enable always trigger notify; commit`
  )
  t.same(await closed, { code: 3500, reason: 'token revoked' })
})

// test/lib/clients/registry.test.ts tests that each client is pinged every 30 seconds.
t.test('row 26: the server pings', async (t) => {
  const { ws } = await build(t, { dbUri: await database() })
  const { webSocket } = await open(t, `${ws}/pinged/${reader}`)
  await once(webSocket, 'ping')
  t.equal(webSocket.readyState, 1)
})
