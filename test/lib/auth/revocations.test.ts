import pg from 'pg'
import t, { type Test } from 'tap'
import { REVOCATIONS_CHANNEL } from '../../../lib/postgres/index.js'
import { answer, stream } from '../../support/event-stream.js'
import { FaultProxy } from '../../support/fault-proxy.js'
import { build, open, query, refusal, token, until, withPostgres } from '../../support/helper.js'
import { type Centrifuge, sdk, subscribed } from '../../support/sdk.js'
import { streaming } from '../../support/streams.js'

const { postgres, database, migrated } = await withPostgres(t)

const now = () => Math.floor(Date.now() / 1000)
const ann = (claims: object = {}) => token({ mode: 'rw', sub: 'ann', iat: now() - 60, ...claims })
const admin = token({ admin: true, sub: 'the operator' })
const HOUR = 3_600_000

const next = <Context>(emitter: unknown, event: string) =>
  new Promise<Context>((resolve) => (emitter as Centrifuge).once(event as 'connected', resolve as never))

/** Two nodes that know each other. */
async function nodes(t: Test, options: object = {}) {
  const dbUri = await migrated()
  const [here, other] = [await build(t, { dbUri, ...options }), await build(t, { dbUri, ...options })]
  await until(() => [here, other].every(({ fastify }) => fastify.pgws.nodes().length === 2))
  return { dbUri, here, other }
}

const ask = async (http: string, path: string, init: RequestInit & { by?: string } = {}) => {
  const { by = admin, ...rest } = init
  const headers = new Headers({ authorization: `Bearer ${by}` })
  if (rest.body !== undefined) headers.set('content-type', 'application/json')
  const response = await fetch(http + path, { ...rest, headers })
  const text = await response.text()
  return {
    status: response.status,
    body: text === '' ? undefined : JSON.parse(text),
    next: response.headers.get('x-pgws-next'),
    total: response.headers.get('x-pgws-total')
  }
}
const revoke = (http: string, body: object) =>
  ask(http, '/revocations', { method: 'POST', body: JSON.stringify(body) })

t.test('a subject is revoked on all nodes: open connections of each kind, and new ones', async (t) => {
  const { here, other } = await nodes(t)
  const bystander = await open(t, `${other.ws}/a/${ann({ sub: 'bob' })}`)
  const socket = await open(t, `${other.ws}/a/${ann()}`)
  const closed = socket.closed()
  const events = await stream(t, `${other.http}/a/${ann()}`)
  const client = sdk(t, other.ws, { token: ann() })
  const disconnected = next<{ code: number; reason: string }>(client, 'disconnected')
  client.connect()
  await client.ready(30_000)
  const emulated = streaming(t, 'http_stream', { http: other.http, emulation: here.http }, { token: ann() })
  const gone = next<{ code: number; reason: string }>(emulated, 'disconnected')
  emulated.connect()
  await emulated.ready(30_000)

  t.match(await revoke(here.http, { sub: 'ann', reason: 'lost a laptop' }), {
    status: 201,
    body: { id: /^\d+$/ }
  })

  t.same(await closed, { code: 3500, reason: 'token revoked' })
  t.match(await disconnected, { code: 3500, reason: 'token revoked' })
  t.match(await gone, { code: 3500, reason: 'token revoked' })
  await events.ended
  const event = events.events.at(-1)!
  t.equal(event.event, 'Disconnected')
  t.same(JSON.parse(event.data), { code: 3500, reason: 'token revoked' })
  for (const node of [here, other]) {
    t.equal((await refusal(t, `${node.ws}/a/${ann()}`)).answer, 'Token revoked')
    t.equal(
      (await refusal(t, `${node.ws}/?channel=a`, { headers: { authorization: `Bearer ${ann()}` } })).status,
      401
    )
    t.equal((await answer(`${node.http}/a/${ann()}`)).statusCode, 401)
    t.match(
      await ask(node.http, '/publish', { method: 'POST', body: '{"channel":"a","payload":1}', by: ann() }),
      {
        status: 401,
        body: { code: 'FST_PGWS_TOKEN_REVOKED', message: 'Token revoked' }
      }
    )
    const refused = sdk(t, node.ws, { token: ann() })
    const stopped = next(refused, 'disconnected')
    refused.connect()
    t.match(await stopped, { code: 3500, reason: 'token revoked' })
    // One that was issued later, and one of somebody else.
    const later = await open(t, `${node.ws}/a/${ann({ iat: now() + 2 })}`)
    later.webSocket.close()
    t.match(await refusal(t, `${node.ws}/a/${token({ mode: 'r', sub: 'ann' })}`), { status: 401 })
  }
  bystander.send('still here')
  t.match(JSON.parse((await bystander.received(1))[0]!), { payload: 'still here' })
  const logged = here.lines.filter((line) => line.includes('revoked tokens of'))
  t.match(JSON.parse(logged[0]!).msg, 'the administrator "the operator" revoked tokens of "ann"')
})

t.test('one token is revoked by its id, in SQL, and allowed again', async (t) => {
  const { dbUri, here, other } = await nodes(t)
  const revoked = await open(t, `${here.ws}/a/${ann({ jti: 'one' })}`)
  const kept = await open(t, `${here.ws}/a/${ann({ jti: 'two' })}`)
  const closed = revoked.closed()
  const { rows } = await query(
    dbUri,
    `select pgws.revoke(jti => 'one', expires => now() + interval '1 hour') as id`
  )
  t.same(await closed, { code: 3500, reason: 'token revoked' })
  await until(() => refusal(t, `${other.ws}/a/${ann({ jti: 'one' })}`).catch(() => undefined))
  t.equal((await ask(here.http, '/channels', { by: token({ admin: true, jti: 'one' }) })).status, 401)
  kept.send('x')
  await kept.received(1)
  t.match((await ask(here.http, '/revocations')).body, [
    {
      id: rows[0].id,
      jti: 'one',
      sub: null,
      issuedBefore: null,
      expires: /^2\d{3}-.*Z$/,
      revokedBy: 'postgres'
    }
  ])
  t.equal((await ask(other.http, `/revocations/${rows[0].id}`, { method: 'DELETE' })).status, 204)
  t.equal((await ask(other.http, `/revocations/${rows[0].id}`, { method: 'DELETE' })).status, 404)
  await until(() => open(t, `${here.ws}/a/${ann({ jti: 'one' })}`).catch(() => undefined))
})

t.test(
  'a new token that is revoked closes the connection, and so does a subscription token its subscription',
  async (t) => {
    const { dbUri, here } = await nodes(t)
    let jti = 'first'
    const client = sdk(t, here.ws, { getToken: async () => ann({ jti, exp: now() + 3 }) })
    const disconnected = next<{ code: number }>(client, 'disconnected')
    client.connect()
    await client.ready(30_000)
    await query(dbUri, `select pgws.revoke(jti => 'second')`)
    await until(() => here.fastify.pgws.isRevoked({ jti: 'second' }))
    jti = 'second'
    t.match(await disconnected, { code: 3500 })

    const other = sdk(t, here.ws, { token: token({ sub: 'ann', jti: 'connection' }) })
    const grant = (jti: string, channel: string) => token({ sub: 'ann', jti, channel })
    const { subscription } = subscribed(other, 'a', { token: grant('granted', 'a') })
    const { subscription: kept } = subscribed(other, 'b', { token: grant('another', 'b') })
    other.connect()
    await Promise.all([subscription.ready(30_000), kept.ready(30_000)])
    const ended = next<{ code: number }>(subscription, 'unsubscribed')
    await query(dbUri, `select pgws.revoke(jti => 'granted')`)
    t.match(await ended, { code: 2000 })
    t.equal(kept.state, 'subscribed')
  }
)

t.test('a token that is revoked while its client is admitted closes the connection', async (t) => {
  const dbUri = await migrated()
  await query(
    dbUri,
    `create schema app;
     create function app.authorize(channel text, mode text, claims jsonb) returns boolean language plpgsql as $$
     begin
       perform pg_advisory_xact_lock_shared(7);
       return true;
     end $$`
  )
  const { ws, http, fastify } = await build(t, { dbUri, authorizeFunction: 'app.authorize' })
  const blocker = new pg.Client(dbUri)
  await blocker.connect()
  t.teardown(() => blocker.end())
  const closings: Record<string, (jwt: string) => Promise<unknown>> = {
    websocket: async (jwt) => (await open(t, `${ws}/a/${jwt}`)).closed(),
    stream: async (jwt) => {
      const { events, ended } = await stream(t, `${http}/a/${jwt}`)
      await ended
      return JSON.parse(events.at(-1)!.data)
    }
  }
  for (const [sub, closing] of Object.entries(closings)) {
    await blocker.query('select pg_advisory_lock(7)')
    const closed = closing(ann({ sub }))
    // The token was verified, and the database is asked about the channel.
    await until(async () => {
      const { rowCount } = await query(
        dbUri,
        `select from pg_locks where locktype = 'advisory' and not granted
           and database = (select oid from pg_database where datname = current_database())`
      )
      return rowCount === 1
    })
    await fastify.pgws.revoke({ sub })
    await blocker.query('select pg_advisory_unlock(7)')
    t.same(await closed, { code: 3500, reason: 'token revoked' }, sub)
  }
})

t.test('what was revoked while a node was cut off is obeyed when it is back', async (t) => {
  const dbUri = await migrated()
  const proxy = await FaultProxy.start(t, `${postgres.socketFolder}/.s.PGSQL.5432`)
  const node = await build(t, { dbUri: proxy.uri(dbUri), checkListenerInterval: 300 })
  const socket = await open(t, `${node.ws}/a/${ann()}`)
  const closed = socket.closed()
  proxy.mode = 'refuse'
  proxy.cut()
  await query(dbUri, `select pgws.revoke(sub => 'ann')`)
  await until(() => !node.fastify.pgws.listenerState.up)
  proxy.mode = 'pass'
  t.same(await closed, { code: 3500, reason: 'token revoked' })
})

t.test('a notification alone revokes nothing', async (t) => {
  const { dbUri, here } = await nodes(t)
  const socket = await open(t, `${here.ws}/a/${ann({ jti: 'one' })}`)
  for (const payload of ['1', '', 'x', '9'.repeat(18), '{"jti":"one"}']) {
    await query(dbUri, 'select pg_notify($1, $2)', [REVOCATIONS_CHANNEL, payload])
  }
  socket.send('x')
  await socket.received(1)
  t.equal(socket.webSocket.readyState, 1)
})

t.test('many at once: each connection of a subject is closed, and others are served', async (t) => {
  const { here } = await nodes(t)
  const sockets = await Promise.all(Array.from({ length: 250 }, () => open(t, `${here.ws}/a/${ann()}`)))
  const closes = sockets.map((socket) => socket.closed())
  await revoke(here.http, { sub: 'ann' })
  const codes = (await Promise.all(closes)).map(({ code }) => code)
  t.same([...new Set(codes)], [3500])
  await until(() => here.fastify.pgws.channels().length === 0)
})

t.test('revocations expire, are listed in pages, and are replaced by later ones', async (t) => {
  const { dbUri, here } = await nodes(t)
  const early = new Date(Date.now() - HOUR).toISOString()
  const expires = new Date(Date.now() + HOUR).toISOString()
  const { body: first } = await revoke(here.http, { sub: 'ann', issuedBefore: early, expires })
  t.notOk(here.fastify.pgws.isRevoked({ sub: 'ann', iat: now() - 60 }))
  t.ok(here.fastify.pgws.isRevoked({ sub: 'ann', iat: now() - 3660 }))
  const { body: second } = await revoke(here.http, { sub: 'ann', expires })
  t.equal(second.id, first.id)
  t.ok(here.fastify.pgws.isRevoked({ sub: 'ann', iat: now() - 60 }))
  for (let n = 0; n < 5; n++) await here.fastify.pgws.revoke({ jti: `token ${n}` })
  const { body: page, next: after, total } = await ask(here.http, '/revocations?limit=4')
  t.same({ after, total }, { after: page[3].id, total: '6' })
  const { body: rest, next: none } = await ask(here.http, `/revocations?limit=4&after=${after}`)
  t.equal(none, null)
  t.same(
    [...page, ...rest].map(({ jti, sub }) => jti ?? sub),
    ['ann', 'token 0', 'token 1', 'token 2', 'token 3', 'token 4']
  )
  t.equal(page[1].expires, null)
  await query(dbUri, `update pgws.revocations set expires_at = now() where sub = 'ann'`)
  await query(dbUri, 'select pgws.clean()')
  await until(() => !here.fastify.pgws.isRevoked({ sub: 'ann' }))
  t.equal((await ask(here.http, '/revocations')).body.length, 5)
})

t.test('requests that are not clear are refused, and say why', async (t) => {
  const { dbUri, here } = await nodes(t)
  for (const [body, message] of [
    [{}, /either "jti".*or "sub"/],
    [{ jti: 'a', sub: 'b' }, /either "jti"/],
    [{ jti: 'a', issuedBefore: new Date().toISOString() }, /"issuedBefore" belongs to "sub"/],
    [{ sub: 'a', issuedBefore: 'yesterday' }, /"issuedBefore" must be a time in ISO 8601/],
    [{ sub: 'a', expires: '2020-01-01T00:00:00Z' }, /"expires" must be in the future/],
    [{ sub: 'a', expires: '+010000-01-01T00:00:00Z' }, /years 1970 to 9999/],
    [{ sub: 5 }, /"sub" must be a string/],
    [{ sub: 'a\0' }, /"sub" has at most 1024 bytes/],
    [{ jti: 'a'.repeat(1025) }, /"jti" has at most 1024 bytes/],
    [{ sup: 'a' }, /"sup" is unknown here/]
  ] as const) {
    t.match(
      await revoke(here.http, body),
      { status: 400, body: { message } },
      JSON.stringify(body).slice(0, 60)
    )
  }
  t.equal((await ask(here.http, '/revocations?limit=0')).status, 400)
  t.equal((await ask(here.http, '/revocations?after=x')).status, 400)
  t.equal((await ask(here.http, '/revocations', { by: ann() })).status, 403)
  for (const call of [
    `pgws.revoke()`,
    `pgws.revoke('a', 'b')`,
    `pgws.revoke(sub => 'a', expires => now())`
  ]) {
    await t.rejects(query(dbUri, `select ${call}`), { code: '22023' }, call)
  }
  await query(dbUri, 'create role passer_by login')
  await t.rejects(query(dbUri, `set role passer_by; select pgws.revoke(sub => 'a')`), { code: '42501' })
})

t.test('without the schema there are no revocations, and each request says what to do', async (t) => {
  const { http, fastify } = await build(t, { dbUri: await database() })
  t.match(await revoke(http, { sub: 'ann' }), { status: 501, body: { message: /migrate/ } })
  t.match(await ask(http, '/revocations'), { status: 501 })
  t.notOk(fastify.pgws.isRevoked({ sub: 'ann' }))
})
