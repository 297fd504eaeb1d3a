import pg from 'pg'
import t, { type Test } from 'tap'
import { migrate } from '../../../../lib/schema/migrate.js'
import {
  build,
  type Client,
  LISTEN_CHANNEL,
  open,
  query,
  token,
  until,
  withPostgres
} from '../../../support/helper.js'

const { database } = await withPostgres(t)

/** A client of the protocol without the SDK, which cannot overlap commands on demand. */
async function connected(t: Test, ws: string, claims: object): Promise<Client> {
  const client = await open(t, `${ws}/connection/websocket`)
  client.send(JSON.stringify({ id: 1, connect: { token: token({ sub: 'me', ...claims }) } }))
  await client.received(1)
  return client
}

const answerTo = (client: Client, id: number) =>
  client.messages.map((text) => JSON.parse(text)).find((answer) => answer.id === id)

async function ask(client: Client, id: number, command: object) {
  client.send(JSON.stringify({ id, ...command }))
  await until(() => answerTo(client, id))
  return answerTo(client, id)
}

t.test('a subscription token is marked as such; a connection token cannot be used instead', async (t) => {
  const { ws } = await build(t, { dbUri: await database() })
  let id = 1
  const client = await connected(t, ws, {})
  const subscribe = (channel: string, claims: object) =>
    ask(client, ++id, { subscribe: { channel, token: token({ sub: 'me', ...claims }) } })
  for (const [claims, message] of [
    [{ mode: 'w', channel: 'a' }, /connection token, because it has "mode"/],
    [{ mode: 'rw', channel: 'a' }, /"mode"/],
    [{ mode: 'r', channels: ['a'] }, /"mode"/],
    [{ channel: 'a', channels: ['a'] }, /"channels"/],
    [{ channel: 'a', channel_patterns: ['*'] }, /"channel_patterns"/],
    [{ channel: 'a', subs: { a: {} } }, /"subs"/],
    [{}, /no claim "channel"/],
    [{ channel: ['a'] }, /"channel" must be a string/],
    [{ channel: 'a', allow: 'pub' }, /"allow" must be a list/]
  ] as const) {
    t.match(await subscribe('a', claims), { error: { code: 103, message } })
  }
  t.match(await subscribe('a', { channel: 'a' }), { subscribe: {} })
  t.match(await ask(client, ++id, { publish: { channel: 'a', data: 1 } }), { error: { code: 103 } })
  t.match(await subscribe('b', { channel: 'b', allow: ['sub', 'pub'] }), { subscribe: {} })
  t.match(await ask(client, ++id, { publish: { channel: 'b', data: 1 } }), { publish: {} })

  // A refresh does not accept one either.
  const ended = client.closed()
  client.send(
    JSON.stringify({
      id: ++id,
      sub_refresh: { channel: 'a', token: token({ sub: 'me', mode: 'w', channel: 'a' }) }
    })
  )
  t.match(await ended, { code: 3500 })
})

t.test('a token that may only write cannot read through its own subscription', async (t) => {
  const { ws } = await build(t, { dbUri: await database() })
  const claims = { mode: 'w', channel: 'a', sub: 'me' }
  const client = await connected(t, ws, claims)
  t.match(await ask(client, 2, { publish: { channel: 'a', data: 'mine' } }), { publish: {} })
  t.match(await ask(client, 3, { subscribe: { channel: 'a', token: token(claims) } }), {
    error: { code: 103 }
  })
  t.match(await ask(client, 4, { publish: { channel: 'a', data: 'mine' } }), { publish: {} })
  t.notOk(client.messages.some((text) => text.includes('"pub"')))
})

/** A transaction that blocks others until it is released. */
async function holding(t: Test, dbUri: string, statement: string) {
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  await client.query('begin')
  await client.query(statement)
  return () => client.query('rollback')
}

/** Resolves when a session waits for a lock. */
const waiting = (dbUri: string) =>
  until(async () => {
    const { rows } = await query(
      dbUri,
      `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
    )
    return rows.length > 0
  })

t.test('a subscribe that is in progress when the token is replaced gets the new permissions', async (t) => {
  const dbUri = await database()
  await query(
    dbUri,
    `create schema app; create function app.authorize(channel text, mode text, claims jsonb) returns boolean
      language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(7); return true; end $$`
  )
  const { ws } = await build(t, { dbUri, authorizeFunction: 'app.authorize' })
  const release = await holding(t, dbUri, 'select pg_advisory_xact_lock(7)')
  const client = await connected(t, ws, { mode: 'rw', channels: ['a', 'b'] })
  client.send(JSON.stringify({ id: 2, subscribe: { channel: 'a' } }))
  client.send(JSON.stringify({ id: 3, subscribe: { channel: 'b' } }))
  await waiting(dbUri)
  const less = token({ sub: 'me', mode: 'r', channels: ['a'] })
  t.match(await ask(client, 4, { refresh: { token: less } }), { refresh: {} })
  t.notOk(answerTo(client, 2) || answerTo(client, 3))
  await release()
  await until(() => answerTo(client, 2) && answerTo(client, 3))
  t.match(answerTo(client, 2), { subscribe: {} })
  t.match(answerTo(client, 3), { error: { code: 103 } })
  t.match(await ask(client, 5, { publish: { channel: 'a', data: 1 } }), { error: { code: 103 } })
  t.match(await ask(client, 6, { presence: { channel: 'b' } }), { error: { code: 103 } })
  t.match(await ask(client, 7, { history: { channel: 'b' } }), { error: { code: 103 } })
})

t.test('a recovery that is in progress when the token is replaced gets the new permissions', async (t) => {
  const dbUri = await database()
  const database_ = new pg.Client(dbUri)
  await database_.connect()
  await migrate(database_, LISTEN_CHANNEL)
  await database_.query(`select pgws.retain('**', '1 hour')`)
  await database_.end()
  const { ws, fastify } = await build(t, { dbUri })
  const client = await connected(t, ws, { mode: 'rw', channels: ['a', 'b'] })
  const release = await holding(t, dbUri, 'lock table pgws.trimmed in access exclusive mode')
  client.send(JSON.stringify({ id: 2, subscribe: { channel: 'b', recover: true } }))
  await waiting(dbUri)
  const less = token({ sub: 'me', mode: 'rw', channels: ['a'] })
  t.match(await ask(client, 3, { refresh: { token: less } }), { refresh: {} })
  await release()
  await until(() => answerTo(client, 2))
  t.match(answerTo(client, 2), { error: { code: 103 } })
  t.same(fastify.pgws.channels(), [])
  await fastify.pgws.publish('b', 'secret')
  t.match(await ask(client, 4, { ping: {} }), { ping: {} })
  t.notOk(client.messages.some((text) => text.includes('secret') || text.includes('unsubscribe')))
})

t.test('server-side subscriptions named like properties of Object.prototype', async (t) => {
  const { ws, fastify } = await build(t, { dbUri: await database() })
  const names = ['constructor', '__proto__', 'toString', 'kept']
  const subs = `{${names.map((name) => `"${name}":{"data":1}`)}}`
  const client = await connected(t, ws, { subs: JSON.parse(subs) })
  const { connect } = JSON.parse(client.messages[0]!)
  t.same(Object.keys(connect.subs).sort(), [...names].sort())
  const refreshed = token({ sub: 'me', subs: { kept: {} } })
  t.match(await ask(client, 2, { refresh: { token: refreshed } }), { refresh: {} })
  t.same(
    fastify.pgws.channels().map(({ channel }) => channel),
    ['kept']
  )
  await until(() => client.messages.filter((text) => text.includes('"unsubscribe"')).length === 3)
})
