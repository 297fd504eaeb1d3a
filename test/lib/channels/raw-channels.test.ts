import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { FaultProxy } from '../../support/fault-proxy.js'
import {
  build,
  notify,
  open,
  query,
  refusal,
  sqlListener,
  token,
  until,
  withPostgres
} from '../../support/helper.js'

const { database, postgres } = await withPostgres(t)
const reader = token({ mode: 'r' })
const rw = token({ mode: 'rw' })

t.test('a raw channel is a database channel: payloads pass unchanged in both directions', async (t) => {
  const dbUri = await database()
  const { ws, http } = await build(t, { dbUri, rawChannels: ['raw:*', 'addedrecord'] })
  const { payloads } = await sqlListener(t, dbUri, 'raw:a')
  const clients = await Promise.all([1, 2, 3].map(() => open(t, `${ws}/raw%3Aa/${rw}`)))
  const other = await open(t, `${ws}/raw%3Ab/${reader}`)
  await notify(dbUri, 'bare text', 'raw:a')
  await notify(dbUri, '{"channel":"raw:b","payload":1}', 'raw:a')
  await notify(dbUri, '', 'raw:a')
  clients[0]!.send('from a browser')
  clients[0]!.send('from a browser')
  await clients[0]!.received(5)
  await fetch(`${http}/publish`, {
    method: 'POST',
    headers: { authorization: `Bearer ${rw}`, 'content-type': 'application/json' },
    body: '[{"channel":"raw:a","payload":"text"},{"channel":"raw:a","payload":{"a":1}}]'
  })
  const expected = [
    'bare text',
    '{"channel":"raw:b","payload":1}',
    '',
    'from a browser',
    'from a browser',
    'text',
    '{"a":1}'
  ]
  for (const client of clients) t.same(await client.received(7), expected)
  await until(() => payloads.length === 7)
  t.same(payloads, expected)
  t.same(other.messages, [])
  clients[1]!.send('x'.repeat(8000))
  t.equal((await clients[1]!.closed()).code, 1009)
})

t.test('listens once for as long as a raw channel has clients, and again after a reconnect', async (t) => {
  const dbUri = await database()
  const { ws, fastify } = await build(t, { dbUri, rawChannels: '**', checkListenerInterval: 300 })
  const name = 'with "quotes" and \'more\' é'
  const url = `${ws}/${encodeURIComponent(name)}/${reader}`
  for (let round = 0; round < 3; round++) {
    const clients = await Promise.all(Array.from({ length: 5 }, () => open(t, url)))
    await notify(dbUri, `round ${round}`, name)
    await notify(dbUri, 'and no other', name)
    for (const client of clients) t.same(await client.received(2), [`round ${round}`, 'and no other'])
    for (const client of clients) client.webSocket.terminate()
    await until(() => fastify.pgws.channels().length === 0)
  }
  const client = await open(t, url)
  const reconnected = new Promise((resolve) => fastify.pgws.once('reconnected', resolve))
  await query(
    dbUri,
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%listener' and datname = current_database()"
  )
  await reconnected
  await notify(dbUri, 'again', name)
  t.same(await client.received(1), ['again'])
})

t.test('many joins and leaves leave nothing behind', async (t) => {
  const dbUri = await database()
  const { ws, fastify } = await build(t, { dbUri, rawChannels: '*' })
  await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      for (let n = 0; n < 10; n++) {
        const client = await open(t, `${ws}/churn${i % 3}/${reader}`)
        if (n % 2) await sleep(1)
        client.webSocket.terminate()
      }
    })
  )
  await until(() => fastify.pgws.channels().length === 0)
  const clients = await Promise.all([0, 1, 2].map((i) => open(t, `${ws}/churn${i}/${reader}`)))
  for (const [i, client] of clients.entries()) {
    await notify(dbUri, `hello ${i}`, `churn${i}`)
    t.same(await client.received(1), [`hello ${i}`])
  }
})

t.test('rejects names that PostgreSQL does not allow, and clients while the database is away', async (t) => {
  const dbUri = await database()
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const { ws, fastify } = await build(t, {
    dbUri,
    listenerUri: proxy.uri(dbUri),
    rawChannels: '**',
    checkListenerInterval: 5000
  })
  await open(t, `${ws}/${'n'.repeat(63)}/${reader}`)
  const { status, answer } = await refusal(t, `${ws}/${'n'.repeat(64)}/${reader}`)
  t.equal(status, 400)
  t.match(answer, /63 bytes/)
  // The listen channel carries envelopes, whatever the patterns are.
  const own = await open(t, `${ws}/postgres-websockets-listener/${reader}`)
  await notify(dbUri, '{"channel":"elsewhere"}')
  await notify(dbUri, 'for nobody in particular')
  t.same(await own.received(1), ['for nobody in particular'])
  proxy.mode = 'refuse'
  proxy.cut()
  await until(() => !fastify.pgws.listenerState.up)
  t.equal((await refusal(t, `${ws}/some/${reader}`)).status, 503)
})
