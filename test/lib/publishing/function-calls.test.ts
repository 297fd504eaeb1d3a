import t, { type Test } from 'tap'
import type { PgWebsocketsOptions } from '../../../index.js'
import { run } from '../../support/app.js'
import { FaultProxy } from '../../support/fault-proxy.js'
import {
  build,
  open,
  query,
  refusal,
  SECRET,
  sqlListener,
  token,
  until,
  withPostgres
} from '../../support/helper.js'
import { snippet } from '../../support/pages.js'
import { createDatabase } from '../../support/postgres.js'

const { postgres, database, migrated } = await withPostgres(t)
const rw = (claims: object = {}) => token({ mode: 'rw', ...claims })

/** A server on a database with functions of its owner. */
async function withFunctions(t: Test, sql: string, options: Partial<PgWebsocketsOptions>) {
  const dbUri = await migrated()
  await query(dbUri, `create schema app; ${sql}`)
  const app = await build(t, { dbUri, ...options })
  return { ...app, dbUri }
}

function post(http: string, body: unknown, as = rw(), headers: Record<string, string> = {}) {
  return fetch(`${http}/publish`, {
    method: 'POST',
    headers: { authorization: `Bearer ${as}`, 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body)
  })
}

const payloadsOf = (messages: readonly string[]) => messages.map((text) => JSON.parse(text).payload)

/** Stores every message; rejects, drops or changes some. */
const ON_MESSAGE = `
  create table app.seen (n serial, message jsonb, subject text default current_setting('request.jwt.claims')::jsonb ->> 'sub');
  create function app.on_message(message jsonb) returns jsonb language plpgsql as $$
  declare
    text text := message ->> 'payload';
  begin
    insert into app.seen (message) values (message);
    if text = 'bad' then
      raise exception 'no %s here: 100%%', text using errcode = 'P0123';
    elsif text = 'quiet' then
      return null;
    elsif text like 'loud %' then
      return message || jsonb_build_object('payload', jsonb_build_object('text', upper(text)));
    elsif text = 'elsewhere' then
      return '{"channel": "elsewhere", "event": "Moved", "payload": 1}';
    elsif text = 'nonsense' then
      return '{"text": "no payload"}';
    elsif text = 'divide' then
      return to_jsonb(1 / 0);
    end if;
    return message;
  end $$;`

t.test('passes each message to the function, in the transaction that publishes the result', async (t) => {
  const { ws, http, dbUri } = await withFunctions(t, ON_MESSAGE, { onMessageFunction: 'app.on_message' })
  const { payloads } = await sqlListener(t, dbUri)
  const reader = await open(t, `${ws}/a/${rw()}`)
  const elsewhere = await open(t, `${ws}/elsewhere/${rw()}`)
  const sender = await open(t, `${ws}/a/${rw({ sub: 'me' })}?rejections=true`)
  for (const text of ['one', 'bad', 'quiet', 'loud two', 'elsewhere', 'nonsense', 'divide', 'one', 'three'])
    sender.send(text)
  await reader.received(4)
  t.same(payloadsOf(reader.messages), ['one', { text: 'LOUD TWO' }, 'one', 'three'])
  await elsewhere.received(1)
  t.match(JSON.parse(elsewhere.messages[0]!), {
    event: 'Moved',
    channel: 'elsewhere',
    payload: 1,
    claims: { sub: 'me', message_delivered_at: Number }
  })
  // The sender reads the channel, too.
  await sender.received(7)
  const rejections = sender.messages
    .map((text) => JSON.parse(text))
    .filter(({ event }) => event === 'Rejected')
  t.match(rejections, [
    {
      channel: 'a',
      payload: { channels: ['a'], message: 'no bads here: 100%', sqlstate: 'P0123', payload: 'bad' }
    },
    { payload: { message: /must return a message/, sqlstate: '22023', payload: 'nonsense' } },
    { payload: { message: 'division by zero', sqlstate: '22012', payload: 'divide' } }
  ])
  t.notOk(reader.messages.some((text) => text.includes('Rejected')))
  const { rows } = await query(dbUri, `select message, subject from app.seen order by n`)
  // Rejected messages are rolled back.
  t.same(
    rows.map(({ message }) => message.payload),
    ['one', 'quiet', 'loud two', 'elsewhere', 'one', 'three']
  )
  t.ok(rows.every(({ subject }) => subject === 'me'))

  // Fields that the function does not change keep their text; the envelope of changed messages has the same
  // order and spelling.
  await until(() => payloads.length === 5)
  t.match(payloads[0], /^\{"event":"WebsocketMessage","channel":"a","payload":"one","claims":\{/)
  t.match(
    payloads[1],
    /^\{"event":"WebsocketMessage","channel":"a","payload":\{"text": "LOUD TWO"\},"claims":\{/
  )

  const rejected = await post(http, { channel: 'a', payload: 'bad' })
  t.equal(rejected.status, 422)
  t.same(await rejected.json(), {
    statusCode: 422,
    code: 'FST_PGWS_REJECTED',
    error: 'Unprocessable Entity',
    message: 'no bads here: 100%',
    sqlstate: 'P0123'
  })
  // All or none.
  t.equal(
    (
      await post(http, [
        { channel: 'a', payload: 'four' },
        { channel: 'a', payload: 'bad' }
      ])
    ).status,
    422
  )
  t.equal((await post(http, { channels: ['a', 'b'], payload: 'five' })).status, 202)
  await reader.received(5)
  t.equal(payloadsOf(reader.messages)[4], 'five')
  const metrics = await (await fetch(`${http}/metrics`)).text()
  t.match(metrics, /pgws_publish_failures_total\{reason="FST_PGWS_REJECTED"\} 5\n/)
})

t.test("warns at the start if the server's role has more privileges than it needs", async (t) => {
  const dbUri = await database()
  const { fastify: installer } = await build(t, { dbUri, migrate: true })
  await installer.close()
  const name = `server_${new URL(dbUri.replace('@/', '@x/')).pathname.slice(-8)}`
  await query(
    dbUri,
    `create schema app;
     create function app.on_message(message jsonb) returns jsonb language sql as 'select message';
     create role ${name} login; grant usage, create on schema app to ${name}; grant pgws_server to ${name}`
  )
  const own = dbUri.replace('postgres@', `${name}@`)
  const warnings = async (dbUri: string, options: object, expected = 0) => {
    const { fastify, lines, http } = await build(t, { dbUri, ...options })
    await until(async () => (await fetch(`${http}/health`)).ok)
    const found = () =>
      lines
        .map((line) => JSON.parse(line).msg as string)
        .filter((msg) => msg?.startsWith("the server's role"))
    // The warning follows soon after a successful start.
    t.equal((await post(http, { channel: 'a', payload: 1 })).status, 202)
    await until(() => found().length >= expected)
    await fastify.close()
    return found()
  }
  const functions = { onMessageFunction: 'app.on_message' }
  t.match(await warnings(dbUri, functions, 1), [/"postgres" is a superuser/])
  t.same(await warnings(dbUri, {}), [], 'nothing of others runs if no function is called')
  t.same(await warnings(own, functions), [])
  await query(own, 'create table app.mine (id int)')
  t.match(await warnings(own, functions, 1), [/"server_\w+" owns tables \(app\.mine\)/])
})

t.test('readers receive every member of what the function returns', async (t) => {
  const { http, ws, dbUri } = await withFunctions(
    t,
    `create function app.on_message(message jsonb) returns jsonb language sql as $$
      select message || '{"event": "Priced", "price": {"amount": 5}, "tags": ["a"], "id": "forged", "pgws": "large", "claims": null}'
    $$`,
    { onMessageFunction: 'app.on_message' }
  )
  await query(dbUri, `select pgws.retain('kept', interval '1 hour')`)
  for (const channel of ['plain', 'kept']) {
    const reader = await open(t, `${ws}/${channel}/${rw()}`)
    await until(async () => (await post(http, { channel, payload: 'x'.repeat(9000) })).ok)
    await reader.received(1)
    t.equal((await post(http, { channel, payload: 'small' })).status, 202)
    await reader.received(2)
    for (const text of reader.messages) {
      const { payload, claims, id, ...rest } = JSON.parse(text)
      t.same(rest, { event: 'Priced', channel, price: { amount: 5 }, tags: ['a'] })
      t.same(Object.keys(claims), ['message_delivered_at'])
      t.not(id, 'forged')
    }
  }
})

t.test('a rejected message does not affect the rest of its batch, and each is passed on once', async (t) => {
  const { ws, dbUri } = await withFunctions(t, ON_MESSAGE, { onMessageFunction: 'app.on_message' })
  const reader = await open(t, `${ws}/a/${rw()}`)
  const senders = await Promise.all(
    Array.from({ length: 5 }, (_, n) =>
      open(t, `${ws}/a/${token({ mode: 'w', sub: `s${n}` })}?rejections=true`)
    )
  )
  for (let i = 0; i < 100; i++) {
    for (const [n, sender] of senders.entries()) sender.send(i % 10 === n ? 'bad' : `${n} ${i}`)
  }
  await reader.received(450)
  const got = payloadsOf(reader.messages)
  for (const n of senders.keys()) {
    const mine = got.filter((text) => text.startsWith(`${n} `))
    const expected = Array.from({ length: 100 }, (_, i) => i)
      .filter((i) => i % 10 !== n)
      .map((i) => `${n} ${i}`)
    t.same(mine, expected)
  }
  for (const sender of senders) await sender.received(10)
  const { rows } = await query(
    dbUri,
    `select count(*)::int, count(distinct message)::int as different from app.seen`
  )
  t.same(rows, [{ count: 450, different: 450 }])
})

t.test('the session state that a function leaves behind reaches no other call or statement', async (t) => {
  const { ws, dbUri, fastify } = await withFunctions(
    t,
    `create role leak_other;
     create function app.on_message(message jsonb) returns jsonb language plpgsql as $$
     declare
       seen jsonb := jsonb_build_object(
         'role', current_user, 'path', current_setting('search_path'), 'mark', current_setting('app.mark', true),
         'local', current_setting('app.local', true), 'table', to_regclass('pg_temp.left_behind') is not null,
         'locks', (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
         'sub', current_setting('request.jwt.claims')::jsonb ->> 'sub');
     begin
       perform set_config('app.mark', 'x', false), set_config('app.local', 'x', true), set_config('search_path', 'app', false);
       create temporary table left_behind ();
       perform pg_advisory_lock(7);
       set role leak_other;
       if message ->> 'payload' = 'bad' then raise exception 'bad'; end if;
       return message || jsonb_build_object('payload', seen);
     end $$`,
    { onMessageFunction: 'app.on_message', poolSize: 1 }
  )
  const { payloads } = await sqlListener(t, dbUri)
  const reader = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  const [first, second] = await Promise.all([
    open(t, `${ws}/a/${token({ mode: 'w', sub: 'one' })}`),
    open(t, `${ws}/a/${token({ mode: 'w' })}`)
  ])
  for (let i = 0; i < 20; i++) {
    first.send(i % 3 === 0 ? 'bad' : 'good')
    second.send('good')
  }
  await reader.received(33)
  const seen = payloadsOf(reader.messages)
  const { rows } = await query(
    dbUri,
    `select current_user::text as role, current_setting('search_path') as path`
  )
  for (const { sub, mark, local, ...found } of seen) {
    t.same(found, { ...rows[0], table: false, locks: 0 })
    t.notOk(mark)
    t.notOk(local)
    t.ok(sub === 'one' || sub === null)
  }
  t.equal(seen.filter(({ sub }) => sub === 'one').length, 13)
  // Plain statements on the same connection.
  await fastify.pgws.publish('a', 'plain')
  await until(() => payloads.length === 34)
})

t.test('passes large, durable and raw messages through the function in order', async (t) => {
  const { ws, http, dbUri } = await withFunctions(t, ON_MESSAGE, {
    onMessageFunction: 'app.on_message',
    rawChannels: 'raw:*'
  })
  await query(dbUri, `select pgws.retain('kept:*', interval '1 hour')`)
  const channels = ['kept:a', 'plain', 'raw:a']
  const reader = await open(t, `${ws}/${token({ mode: 'r', channels })}`)
  const informed = await open(t, `${ws}/${token({ mode: 'w', channels })}?rejections=true`)
  const large = 'x'.repeat(20_000)
  await until(async () => (await post(http, { channel: 'kept:a', payload: 'probe' })).ok)
  await reader.received(1)
  const only = await open(t, `${ws}/${token({ mode: 'w', channels: ['kept:a', 'plain'] })}`)
  for (let i = 0; i < 20; i++) {
    only.send(`${i}`)
    only.send(`${i}${large}`)
  }
  await reader.received(81)
  for (const channel of ['kept:a', 'plain']) {
    const got = reader.messages
      .slice(1)
      .map((text) => JSON.parse(text))
      .filter((message) => message.channel === channel)
      .map(({ payload }) => payload)
    t.same(got, Array.from({ length: 20 }, (_, i) => [`${i}`, `${i}${large}`]).flat())
  }
  informed.send('loud raw')
  await reader.received(84)
  t.ok(reader.messages.includes('{"text": "LOUD RAW"}'))
  informed.send('bad')
  t.match(JSON.parse((await informed.received(1))[0]!).payload.channels, channels)
  // Counting the receivers works as before.
  const counted = await post(http, { channels, payload: 'loud count', confirm: true })
  t.same(await counted.json(), { delivered: 3, nodes: 1 })
  // Once for each idempotency key: the function is not called again.
  const again = { 'idempotency-key': 'k' }
  for (let i = 0; i < 3; i++) {
    t.equal((await post(http, { channel: 'kept:a', payload: 'keyed' }, rw(), again)).status, 202)
  }
  const { rows } = await query(
    dbUri,
    `select (select count(*)::int from app.seen where message ->> 'payload' = 'keyed') as seen,
       (select count(*)::int from pgws.messages where body like '%"keyed"%') as stored`
  )
  t.same(rows, [{ seen: 1, stored: 1 }])
})

t.test('retries deadlocks and serialization failures, and reports no rejection', async (t) => {
  const { ws, http, dbUri } = await withFunctions(
    t,
    `create sequence app.tries;
     create function app.on_message(message jsonb) returns jsonb language plpgsql as $$
     begin
       if message ->> 'payload' = 'twice' and nextval('app.tries') < 3 then
         raise exception 'try again' using errcode = '40001';
       elsif message ->> 'payload' = 'always' then
         raise exception 'never' using errcode = '40P01';
       end if;
       return message;
     end $$`,
    { onMessageFunction: 'app.on_message' }
  )
  const reader = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  const sender = await open(t, `${ws}/a/${token({ mode: 'w' })}`)
  for (const text of ['one', 'twice', 'three']) sender.send(text)
  await reader.received(3)
  t.same(payloadsOf(reader.messages), ['one', 'twice', 'three'])
  t.match(await (await post(http, { channel: 'a', payload: 'always' })).json(), {
    statusCode: 422,
    sqlstate: '40P01'
  })
  // A constraint that is checked at commit rejects only its own message.
  await query(
    dbUri,
    `create table app.once (payload text unique deferrable initially deferred);
     create or replace function app.on_message(message jsonb) returns jsonb language plpgsql as $$
     begin
       insert into app.once values (message ->> 'payload');
       return message;
     end $$`
  )
  const informed = await open(t, `${ws}/a/${token({ mode: 'w' })}?rejections=true`)
  for (const text of ['x', 'y', 'x', 'z']) informed.send(text)
  await reader.received(6)
  t.same(payloadsOf(reader.messages).slice(3), ['x', 'y', 'z'])
  t.match(JSON.parse((await informed.received(1))[0]!).payload, { sqlstate: '23505', payload: 'x' })
})

t.test('messages wait while the database is away, and the function is called once for each', async (t) => {
  const dbUri = await database()
  await query(dbUri, `create schema app; ${ON_MESSAGE}`)
  const proxy = await FaultProxy.start(t, `${postgres.socketFolder}/.s.PGSQL.5432`)
  const { ws, http } = await build(t, {
    dbUri: proxy.uri(dbUri),
    listenerUri: dbUri,
    migrate: true,
    onMessageFunction: 'app.on_message'
  })
  const reader = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  const sender = await open(t, `${ws}/a/${token({ mode: 'w' })}`)
  sender.send('before')
  await reader.received(1)
  proxy.mode = 'refuse'
  proxy.cut()
  for (let i = 0; i < 10; i++) sender.send(`m${i}`)
  const waiting = async () =>
    /^pgws_publish_queue_bytes (\d+)$/m.exec(await (await fetch(`${http}/metrics`)).text())![1]
  await until(async () => (await waiting()) !== '0')
  t.equal(reader.messages.length, 1)
  proxy.mode = 'pass'
  await reader.received(11)
  const { rows } = await query(dbUri, `select message ->> 'payload' as payload from app.seen order by n`)
  t.same(
    rows.map(({ payload }) => payload),
    ['before', ...Array.from({ length: 10 }, (_, i) => `m${i}`)]
  )
})

const AUTHORIZE = `
  create table app.asked (channel text, mode text, claims jsonb, seen jsonb default current_setting('request.jwt.claims')::jsonb);
  create table app.members (channel text, subject text);
  create function app.authorize(channel text, mode text, claims jsonb) returns boolean language plpgsql as $$
  begin
    if channel = 'broken' then raise exception 'secret detail'; end if;
    insert into app.asked values (channel, mode, claims);
    return (select true from app.members m where m.channel = $1 and m.subject = claims ->> 'sub');
  end $$;`

t.test('authorizeFunction decides which channels a client may join and publish to', async (t) => {
  const { ws, http, dbUri, lines } = await withFunctions(t, AUTHORIZE, { authorizeFunction: 'app.authorize' })
  await query(dbUri, `insert into app.members values ('a', 'me'), ('b', 'me'), ('a', 'you')`)
  const me = rw({ sub: 'me' })
  await open(t, `${ws}/a/${me}`)
  await open(t, `${ws}/${token({ mode: 'w', sub: 'me', channels: ['a', 'b'] })}`)
  const stream = await fetch(`${http}/a/${me}`, { headers: { accept: 'text/event-stream' } })
  t.equal(stream.status, 200)
  await stream.body!.cancel()
  const no = await refusal(t, `${ws}/b/${rw({ sub: 'you' })}`)
  t.equal(no.status, 403)
  t.equal(no.answer, 'The database does not allow this on the channel "b"')
  t.equal((await refusal(t, `${ws}/${rw({ sub: 'you', channels: ['a', 'b'] })}`)).status, 403)
  t.equal((await refusal(t, `${ws}/broken/${me}`)).status, 403)
  t.ok(lines.some((line) => line.includes('authorizeFunction failed')))
  t.equal((await post(http, { channels: ['a', 'b'], payload: 1 }, me)).status, 202)
  t.equal(
    (
      await post(
        http,
        [
          { channel: 'a', payload: 1 },
          { channel: 'b', payload: 1 }
        ],
        rw({ sub: 'you' })
      )
    ).status,
    403
  )
  const history = await fetch(`${http}/channels/c/history`, { headers: { authorization: `Bearer ${me}` } })
  t.equal(history.status, 403)
  const { rows } = await query(
    dbUri,
    `select channel, mode from app.asked where claims ->> 'sub' = 'me' and claims = seen`
  )
  t.same(
    rows.map(({ channel, mode }) => `${channel} ${mode}`),
    ['a rw', 'a w', 'b w', 'a r', 'a w', 'b w', 'c r']
  )
  await query(dbUri, `delete from app.members`)
  t.equal((await refusal(t, `${ws}/a/${me}`)).status, 403)
})

t.test('reuses an answer within authorizeTtl for the same token, mode and channel', async (t) => {
  const { ws, http, dbUri } = await withFunctions(t, AUTHORIZE, {
    authorizeFunction: 'app.authorize',
    authorizeTtl: 60_000
  })
  await query(dbUri, `insert into app.members values ('a', 'me')`)
  const me = rw({ sub: 'me' })
  for (let i = 0; i < 3; i++) await open(t, `${ws}/a/${me}`)
  t.equal((await post(http, { channel: 'a', payload: 1 }, me)).status, 202)
  t.equal((await post(http, { channel: 'a', payload: 1 }, me)).status, 202)
  await open(t, `${ws}/a/${rw({ sub: 'me', other: 1 })}`)
  // A negative answer is not reused.
  t.equal((await refusal(t, `${ws}/b/${me}`)).status, 403)
  await query(dbUri, `insert into app.members values ('b', 'me')`)
  await open(t, `${ws}/b/${me}`)
  const { rows } = await query(dbUri, 'select count(*)::int from app.asked')
  t.equal(rows[0].count, 5)
})

t.test(
  'calls the functions when a client connects and disconnects, in order with its messages',
  async (t) => {
    const { ws, http, dbUri, lines } = await withFunctions(
      t,
      `create table app.log (n serial, what text, claims jsonb, channels text[], connection text, reason text);
     create function app.on_connect(claims jsonb, channels text[], connection text) returns void language sql as $$
       insert into app.log (what, claims, channels, connection) values ('connect', claims, channels, connection) $$;
     create function app.on_disconnect(claims jsonb, channels text[], connection text, reason text) returns void language plpgsql as $$
     begin
       if claims ->> 'sub' = 'raises' then raise exception 'no'; end if;
       insert into app.log (what, claims, channels, connection, reason) values ('disconnect', claims, channels, connection, reason);
     end $$;
     create function app.on_message(message jsonb) returns jsonb language plpgsql as $$
     begin
       insert into app.log (what) values (message ->> 'payload');
       return null;
     end $$`,
      {
        onConnectFunction: 'app.on_connect',
        onDisconnectFunction: 'app.on_disconnect',
        onMessageFunction: 'app.on_message'
      }
    )
    const log = async () => (await query(dbUri, 'select * from app.log order by n')).rows
    const client = await open(t, `${ws}/${rw({ sub: 'me', channels: ['a', 'b'] })}`)
    client.send('hello')
    client.webSocket.close(4000, 'enough')
    await until(async () => (await log()).length === 4)
    const [connect, ...rest] = await log()
    t.match(connect, {
      what: 'connect',
      claims: { sub: 'me', mode: 'rw' },
      channels: ['a', 'b'],
      reason: null
    })
    t.match(connect.connection, /^[0-9a-f]+-\d+$/)
    t.match(rest, [
      { what: 'hello' },
      { what: 'hello' },
      { what: 'disconnect', connection: connect.connection, channels: ['a', 'b'], reason: '4000 enough' }
    ])
    const raises = await open(t, `${ws}/a/${token({ mode: 'r', sub: 'raises' })}`)
    raises.webSocket.close()
    await until(() => lines.some((line) => line.includes('onDisconnectFunction failed')))
    const stream = await fetch(`${http}/a/${rw({ sub: 'stream' })}`, {
      headers: { accept: 'text/event-stream' }
    })
    await stream.body!.cancel()
    await until(async () =>
      (await log()).some(({ what, claims }) => what === 'disconnect' && claims.sub === 'stream')
    )
  }
)

for (const encoding of ['UTF8', 'LATIN1']) {
  t.test(`${encoding}: no text of a client prevents the functions from being called`, async (t) => {
    const dbUri = await createDatabase(postgres, encoding)
    await query(
      dbUri,
      `create schema app; create table app.log (n serial, what text, claims jsonb, channels text[], reason text);
       create function app.on_connect(claims jsonb, channels text[], connection text) returns void language sql as $$
         insert into app.log (what, claims, channels) values ('connect', claims, channels) $$;
       create function app.on_disconnect(claims jsonb, channels text[], connection text, reason text) returns void language sql as $$
         insert into app.log (what, claims, channels, reason) values ('disconnect', claims, channels, reason) $$;
       create function app.on_message(message jsonb) returns jsonb language sql as 'select message';
       create function app.authorize(channel text, mode text, claims jsonb) returns boolean language sql as 'select true'`
    )
    const { ws, fastify, lines } = await build(t, {
      dbUri,
      migrate: true,
      metaChannel: 'meta',
      onConnectFunction: 'app.on_connect',
      onDisconnectFunction: 'app.on_disconnect',
      ...(encoding === 'UTF8' && { onMessageFunction: 'app.on_message', authorizeFunction: 'app.authorize' })
    })
    const log = async () => (await query(dbUri, 'select * from app.log order by n')).rows
    const hostile = { name: 'a\0b\ud800c\\u0000', 'key\0\udc00': ['\0', { '\ud800': '\\\0' }] }
    const reader = await open(t, `${ws}/a/${rw()}`)
    const client = await open(t, `${ws}/a/${rw(hostile)}`)
    // The functions for connections and for messages are called in order.
    client.send('hello')
    await reader.received(1)
    t.equal(JSON.parse(reader.messages[0]!).claims.name, 'a\ufffdb\ufffdc\\u0000')
    client.webSocket.close(4000, 'a\0b 温')
    await until(async () => (await log()).length === 3)
    const [, connect, disconnect] = await log()
    const shown = encoding === 'UTF8' ? '\ufffd' : '?'
    t.match(connect, { what: 'connect', channels: ['a'], claims: { name: `a${shown}b${shown}c\\u0000` } })
    t.match(disconnect, {
      what: 'disconnect',
      claims: {
        name: `a${shown}b${shown}c\\u0000`,
        [`key${shown}${shown}`]: [shown, { [shown]: `\\${shown}` }]
      },
      reason: encoding === 'UTF8' ? '4000 a\ufffdb 温' : '4000 a?b ?'
    })
    await open(t, `${ws}/b/${rw({ sub: 'other' })}`)
    await fastify.pgws.disconnect({ subject: 'other' }, { code: 4001, reason: '\ud800\0 gone' })
    await until(async () => (await log()).length === 5)
    t.match((await log())[4], { what: 'disconnect' })
    t.notOk(lines.some((line) => line.includes('failed')))
  })
}

t.test('functions run under the role of the token, never under the server’s own', async (t) => {
  const dbUri = await database()
  await query(
    dbUri,
    `create role handler_server login;
     create role handler_user nologin; create role handler_guest nologin; create role handler_foreign nologin;
     grant handler_user, handler_guest to handler_server;
     create schema app;
     grant usage on schema app to handler_user, handler_guest;
     create table app.notes (owner text default current_setting('request.jwt.claims')::jsonb ->> 'sub', role name default current_user, note text);
     alter table app.notes enable row level security;
     create policy own on app.notes using (owner = current_setting('request.jwt.claims')::jsonb ->> 'sub') with check (note <> 'forbidden');
     grant select, insert on app.notes to handler_user;
     create function app.on_message(message jsonb) returns jsonb language plpgsql as $$
     begin
       insert into app.notes (note) values (message ->> 'payload');
       return jsonb_build_object('payload', (select jsonb_agg(note) from app.notes));
     end $$;
     create function app.authorize(channel text, mode text, claims jsonb) returns boolean language sql as 'select current_user <> ''handler_guest'' or channel = ''a''';`
  )
  await (await build(t, { dbUri, migrate: true })).fastify.close()
  await query(dbUri, 'grant pgws_server to handler_server')
  const options = {
    dbUri: dbUri.replace('postgres@', 'handler_server@'),
    onMessageFunction: 'app.on_message',
    authorizeFunction: 'app.authorize',
    roleClaim: 'role'
  }
  const { ws, http } = await build(t, options)
  const as = (role: unknown, sub = 'me') => rw({ role, sub })
  const reader = await open(t, `${ws}/a/${as('handler_user', 'reader')}`)
  const mine = await open(t, `${ws}/a/${as('handler_user', 'me')}?rejections=true`)
  const yours = await open(t, `${ws}/a/${as('handler_user', 'you')}`)
  const guest = await open(t, `${ws}/a/${as('handler_guest')}?rejections=true`)
  mine.send('mine')
  await reader.received(1)
  yours.send('yours')
  await reader.received(2)
  mine.send('forbidden')
  mine.send('more')
  guest.send('as a guest')
  await reader.received(3)
  // Row-level security: each role sees only its own rows.
  t.same(payloadsOf(reader.messages), [['mine'], ['yours'], ['mine', 'more']])
  const rejected = (client: typeof mine) =>
    client.messages.map((text) => JSON.parse(text)).filter(({ event }) => event === 'Rejected')
  await until(() => rejected(mine).length === 1 && rejected(guest).length === 1)
  t.match(rejected(mine)[0].payload, { sqlstate: '42501', message: /row-level security/ })
  t.match(rejected(guest)[0].payload, { sqlstate: '42501', message: /permission denied for table notes/ })
  t.equal((await refusal(t, `${ws}/b/${as('handler_guest')}`)).status, 403)
  const wrong = [
    undefined,
    5,
    '',
    'none',
    'NONE',
    'handler_server',
    'handler_foreign',
    'postgres',
    'no such role',
    "x'; --"
  ]
  for (const role of wrong) {
    const refused = await refusal(t, `${ws}/a/${as(role)}`)
    t.equal(refused.status, 403, String(role))
    t.equal(JSON.parse(refused.body).code, 'FST_PGWS_ROLE_NOT_ALLOWED')
    t.equal((await post(http, { channel: 'a', payload: 'x' }, as(role))).status, 403, String(role))
  }
  const { rows } = await query(dbUri, 'select distinct role from app.notes')
  t.same(rows, [{ role: 'handler_user' }])

  // Also without authorizeFunction, and when the role is revoked from the server later.
  const { authorizeFunction: _, ...rest } = options
  const second = await build(t, rest)
  for (const role of wrong)
    t.equal((await refusal(t, `${second.ws}/a/${as(role)}`)).status, 403, String(role))
  const late = await open(t, `${second.ws}/c/${as('handler_user')}?rejections=true`)
  await query(dbUri, 'revoke handler_user from handler_server')
  late.send('too late')
  t.match(JSON.parse((await late.received(1))[0]!).payload, { sqlstate: '42501' })
})

t.test('a function that does not exist, or is not installed, is a clear error at the start', async (t) => {
  const dbUri = await database()
  await t.rejects(build(t, { dbUri, onMessageFunction: 'on_message' }), {
    message: /onMessageFunction.*must be "schema.function"/
  })
  await t.rejects(build(t, { dbUri, roleClaim: 'role' }), { message: /roleClaim.*has no effect without/ })
  await t.rejects(build(t, { dbUri, onMessageFunction: 'app.on_message' }), {
    message:
      'The database has no function app.on_message(jsonb) that returns jsonb: create it, or correct the option "onMessageFunction"'
  })
  await query(
    dbUri,
    `create schema "My App"; create function "My App"."on.message"(jsonb) returns jsonb language sql as 'select $1';
     create schema app; create function app.authorize(text, text, jsonb) returns text language sql as 'select $1'`
  )
  await t.rejects(build(t, { dbUri, onMessageFunction: '"My App"."on.message"' }), {
    code: 'FST_PGWS_NOT_INSTALLED'
  })
  await t.rejects(build(t, { dbUri, authorizeFunction: 'App.Authorize' }), {
    message: /that returns boolean/
  })
  const app = await run(t, {
    PGWS_DB_URI: dbUri,
    PGWS_JWT_SECRET: SECRET,
    PGWS_CHECK_LISTENER_INTERVAL: '1000000',
    PGWS_ON_MESSAGE_FUNCTION: 'app.nothing'
  })
  t.equal(await app.exit, 1)
  t.match(app.output(), /no function app.nothing\(jsonb\) that returns jsonb/)
  const { ws } = await build(t, { dbUri, migrate: true, onMessageFunction: '"My App"."on.message"' })
  const client = await open(t, `${ws}/a/${rw()}`)
  client.send('hello')
  t.same(payloadsOf(await client.received(1)), ['hello'])
})

t.test('the functions of docs/sql-functions.md work as printed', async (t) => {
  const sql = snippet('docs/sql-functions.md', 'create function app.on_message').replace(
    'create schema app;\n',
    ''
  )
  const { ws, dbUri } = await withFunctions(t, `${sql}; insert into app.members values ('chat', 'me')`, {
    onMessageFunction: 'app.on_message',
    authorizeFunction: 'app.authorize'
  })
  t.equal((await refusal(t, `${ws}/other/${rw({ sub: 'me' })}`)).status, 403)
  const client = await open(t, `${ws}/chat/${rw({ sub: 'me' })}?rejections=true`)
  client.send('x'.repeat(501))
  client.send('hello')
  await client.received(2)
  const [published, rejected] = client.messages
    .map((text) => JSON.parse(text))
    .sort(({ event }) => (event === 'Rejected' ? 1 : -1))
  t.match(published, { event: 'WebsocketMessage', payload: 'hello' })
  t.match(rejected.payload, { sqlstate: '22001', message: 'at most 500 characters, please' })
  const { rows } = await query(dbUri, 'select * from app.messages')
  t.same(rows, [{ channel: 'chat', author: 'me', body: 'hello' }])
})
