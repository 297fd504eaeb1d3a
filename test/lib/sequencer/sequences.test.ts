import t from 'tap'
import { build, open, query, token, until, withPostgres } from '../../support/helper.js'

const { migrated } = await withPostgres(t)
const rw = token({ mode: 'rw' })

const payloads = ({ messages }: { messages: string[] }) => messages.map((text) => JSON.parse(text).payload)

t.test('sequences that are behind their tables, as after logical replication, are advanced', async (t) => {
  const dbUri = await migrated('kept')
  const first = await build(t, { dbUri })
  const before = await open(t, `${first.ws}/kept/${rw}`)
  for (let n = 0; n < 5; n++) await query(dbUri, `select pgws.publish_text('kept', $1)`, [`before ${n}`])
  await query(dbUri, `select pgws.publish_text('free', repeat('x', 9000)), pgws.revoke(jti => 'one')`)
  await before.received(5)
  const [{ id }] = JSON.parse(`[${before.messages.at(-1)}]`)
  await first.fastify.close()

  await query(
    dbUri,
    `select setval('pgws.positions', 1, false), setval('pgws.large_id_seq', 1, false),
       setval('pgws.rounds_number_seq', 1, false), setval('pgws.revocations_id_seq', 1, false)`
  )
  const { http, ws } = await build(t, { dbUri })
  const client = await open(t, `${ws}/kept/${rw}?since=${id}`)
  await query(
    dbUri,
    `select pgws.publish_text('kept', 'from SQL'), pgws.publish_text('kept', repeat('x', 9000))`
  )
  await client.received(2)
  const publish = () =>
    fetch(`${http}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${rw}`, 'content-type': 'application/json' },
      body: '{"channel":"kept","payload":"over HTTP"}'
    })
  await until(async () => (await publish()).status === 202)
  await client.received(3)
  t.same(
    payloads(client).map((text: string) => text.slice(0, 9)),
    ['from SQL', 'xxxxxxxxx', 'over HTTP']
  )
  await query(dbUri, `select pgws.revoke(jti => 'two')`)
})

t.test('delivers messages after a row that was inserted with a greater position', async (t) => {
  const dbUri = await migrated('kept')
  const { ws, fastify } = await build(t, { dbUri, checkListenerInterval: 200 })
  const client = await open(t, `${ws}/kept/${rw}`)
  await query(dbUri, `select pgws.publish_text('kept', 'first')`)
  await client.received(1)
  await query(
    dbUri,
    `insert into pgws.messages (position, channel, body, expires_at)
     values (1000000, 'kept', '{"channel":"kept","payload":"inserted"}', now() + interval '1 hour')`
  )
  const { reconnects } = fastify.pgws.listenerState
  await query(
    dbUri,
    `select pg_terminate_backend(pid) from pg_stat_activity
     where datname = current_database() and application_name = 'fastify-pg-websockets listener'`
  )
  await until(() => fastify.pgws.listenerState.reconnects > reconnects)
  await client.received(2)
  const sequence = async () => {
    const { rows } = await query(dbUri, 'select last_value::int as last from pgws.positions')
    return rows[0].last as number
  }
  await until(async () => (await sequence()) > 1_000_000)
  await query(dbUri, `select pgws.publish_text('kept', 'last')`)
  await client.received(3)
  t.same(payloads(client), ['first', 'inserted', 'last'])
})
