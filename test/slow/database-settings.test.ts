import pg from 'pg'
import t, { type Test } from 'tap'
import { migrate } from '../../lib/schema/migrate.js'
import { build, LISTEN_CHANNEL, open, query, token, until, withPostgres } from '../support/helper.js'

const { database, migrated: withSchema } = await withPostgres(t)
const TOKEN = token({ mode: 'rw', sub: 'me' })
const payloadOf = (text: string) => JSON.parse(text).payload

/** Settings that roles and databases have in practice. None of them may change what the server does. */
const SETTINGS: Record<string, Record<string, string>> = {
  'standard_conforming_strings off': { standard_conforming_strings: 'off' },
  'array_nulls off': { array_nulls: 'off' },
  serializable: { default_transaction_isolation: 'serializable' },
  'repeatable read': { default_transaction_isolation: "'repeatable read'" },
  deferrable: { default_transaction_deferrable: 'on', default_transaction_isolation: 'serializable' },
  'lock_timeout 20 ms': { lock_timeout: "'20ms'" },
  'statement_timeout 20 ms': { statement_timeout: "'20ms'" },
  'idle_in_transaction_session_timeout 20 ms': { idle_in_transaction_session_timeout: "'20ms'" },
  'transaction_timeout 20 ms': { transaction_timeout: "'20ms'" },
  'search_path empty': { search_path: "''" },
  'search_path strange': { search_path: 'nowhere, "$user", pg_temp' },
  DateStyle: { datestyle: "'SQL, DMY'" },
  IntervalStyle: { intervalstyle: "'sql_standard'" },
  'bytea_output escape': { bytea_output: "'escape'" },
  'extra_float_digits -15': { extra_float_digits: '-15' },
  client_encoding: { client_encoding: "'LATIN1'" },
  TimeZone: { timezone: "'Asia/Kathmandu'" },
  'row_security off': { row_security: 'off' },
  'transform_null_equals on': { transform_null_equals: 'on' }
}

let roles = 0

/** A database for a role with settings. `owner` is the connection string of a role without them. */
async function withSettings(
  settings: Record<string, string>,
  scope: 'role' | 'database' = 'role'
): Promise<{ dbUri: string; owner: string; target: string }> {
  const owner = await database()
  const role = `set_${++roles}`
  await query(owner, `create role ${role} login superuser`)
  const target = scope === 'role' ? `role ${role}` : `database ${/\/(test_\w+)/.exec(owner)![1]}`
  // In one query, so that the next session has all of them.
  const changes = Object.entries(settings).map(([name, value]) => `alter ${target} set ${name} = ${value}`)
  await query(owner, changes.join(';'))
  return { owner, target, dbUri: owner.replace('postgres@', `${role}@`) }
}

/** Runs a statement of the test, and repeats it if the role's timeouts end it. */
async function patiently(dbUri: string, text: string, values: unknown[] = []): Promise<pg.QueryResult> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await query(dbUri, text, values)
    } catch (error) {
      const { code = '', message } = error as { code?: string; message: string }
      const ended = /^(?:57014|25P04|40)/.test(code) || message.startsWith('Connection terminated')
      if (!ended || attempt === 100) throw error
    }
  }
}

async function migrated(dbUri: string): Promise<void> {
  const client = new pg.Client(dbUri)
  await client.connect()
  try {
    await migrate(client, LISTEN_CHANNEL)
  } finally {
    await client.end()
  }
}

for (const [title, settings] of Object.entries(SETTINGS)) {
  t.test(`${title}, set for a role, changes nothing`, (t) => works(t, settings, 'role'))
}

/** Sessions get the settings of their database in the same way, so several are tested together. */
const of = (...titles: string[]): Record<string, string> =>
  Object.assign({}, ...titles.map((title) => SETTINGS[title]))
const TIMEOUTS = Object.keys(SETTINGS).filter((title) => title.endsWith('20 ms'))
const TOGETHER: Record<string, Record<string, string>> = {
  deferrable: of('deferrable'),
  'repeatable read, search_path strange': of('repeatable read', 'search_path strange'),
  'all timeouts 20 ms': of(...TIMEOUTS),
  'how values are written and read': of(
    'standard_conforming_strings off',
    'array_nulls off',
    'DateStyle',
    'IntervalStyle',
    'bytea_output escape',
    'extra_float_digits -15',
    'client_encoding',
    'TimeZone',
    'row_security off',
    'transform_null_equals on',
    'search_path empty'
  )
}
for (const [title, settings] of Object.entries(TOGETHER)) {
  t.test(`${title}, set for a database, changes nothing`, (t) => works(t, settings, 'database'))
}

t.test('each setting is tested for a role and for a database', async (t) => {
  const names = (groups: typeof SETTINGS) => new Set(Object.values(groups).flatMap(Object.keys))
  t.same(names(TOGETHER), names(SETTINGS))
})

async function works(t: Test, settings: Record<string, string>, scope: 'role' | 'database'): Promise<void> {
  const { dbUri, owner } = await withSettings(settings, scope)
  await migrated(dbUri)
  await patiently(dbUri, `select pgws.retain('kept:*', '1 hour')`)
  const { fastify, http, ws } = await build(t, { dbUri, migrate: true, checkListenerInterval: 300 })
  t.equal((await fastify.pgws.health()).status, 'ok')

  for (const channel of ['plain', 'kept:1']) {
    const path = `${ws}/${encodeURIComponent(channel)}/${TOKEN}`
    const client = await open(t, path)
    await patiently(dbUri, 'select pgws.publish($1, $2)', [channel, '{"from":"sql"}'])
    await client.received(1)
    client.send('socket \\ "é')
    await client.received(2)
    const answer = await fetch(`${http}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' },
      body: JSON.stringify([
        { channel, payload: null },
        { channel, payload: 'post \\' }
      ])
    })
    t.equal(answer.status, 202, await answer.text())
    await client.received(4)
    await fastify.pgws.publish(channel, 'x'.repeat(9000))
    t.same((await client.received(5)).map(payloadOf), [
      { from: 'sql' },
      'socket \\ "é',
      null,
      'post \\',
      'x'.repeat(9000)
    ])
    if (channel === 'plain') continue
    const { id } = JSON.parse(client.messages[1]!)
    const resumed = await open(t, `${path}?since=${id}`)
    t.same((await resumed.received(3)).map(payloadOf), [null, 'post \\', 'x'.repeat(9000)])
    const { messages } = await fastify.pgws.history(channel, undefined, 10)
    t.same(
      messages.map(({ id }) => id),
      client.messages.map((text) => JSON.parse(text).id)
    )
  }
  // A message for a raw channel and a durable one, together, so that arrays contain nulls.
  const both = await open(t, `${ws}/${token({ mode: 'r', channels: ['plain', 'kept:2'] })}`)
  await fastify.pgws.publishAll(
    [
      { channels: ['plain'], payload: 'p'.repeat(9000) },
      { channels: ['kept:2'], payload: 2 }
    ],
    {}
  )
  await both.received(2)

  await patiently(
    owner,
    'create table public.things (id bigint, price float8, taken interval, made daterange, data bytea, name text)'
  )
  const condition = "record.name is null or record.name ~ '^[a-z]*$'"
  await patiently(dbUri, `select pgws.watch('public.things', 'kept:{id}', condition => $1)`, [condition])
  const watcher = await open(t, `${ws}/kept%3A7/${TOKEN}`)
  await patiently(
    dbUri,
    `insert into public.things values (7, 0.1::float8 + 0.2, interval '1 year 2 months',
      daterange(date '2026-02-01', date '2026-03-04'), decode('005cff', 'hex'), 'abc')`
  )
  t.match(payloadOf((await watcher.received(1))[0]!), {
    operation: 'INSERT',
    record: {
      id: 7,
      price: 0.30000000000000004,
      taken: '1 year 2 mons',
      made: '[2026-02-01,2026-03-04)',
      data: '\\x005cff',
      name: 'abc'
    }
  })
  await patiently(dbUri, `select pgws.unwatch('public.things')`)
  const { rows } = await patiently(
    owner,
    `select count(*)::int as n from pg_trigger where tgname like 'pgws%'
    and tgrelid = 'public.things'::regclass`
  )
  t.equal(rows[0].n, 0)
  t.equal((await fastify.pgws.health()).status, 'ok')
  t.equal(fastify.pgws.listenerState.reconnects, 0)
}

t.test(
  "the owner's functions run with the settings of the role, which do not end their transaction",
  async (t) => {
    const { dbUri, owner } = await withSettings({
      lock_timeout: "'1234ms'",
      statement_timeout: "'3s'",
      idle_in_transaction_session_timeout: "'20ms'",
      default_transaction_isolation: "'repeatable read'",
      datestyle: "'SQL, DMY'",
      search_path: 'mine'
    })
    await query(
      owner,
      `create schema mine;
     create function mine.found(message jsonb) returns jsonb language sql as $$
       select message || jsonb_build_object('payload', jsonb_build_object('lock', current_setting('lock_timeout'),
         'statement', current_setting('statement_timeout'), 'isolation', current_setting('transaction_isolation'),
         'date', current_setting('datestyle'), 'path', current_setting('search_path')))
     $$`
    )
    const { ws } = await build(t, { dbUri, migrate: true, onMessageFunction: 'mine.found' })
    const client = await open(t, `${ws}/a/${TOKEN}`)
    for (let i = 1; i <= 5; i++) {
      client.send('x')
      // A busy process. Its transaction is idle for longer than the role's timeout.
      const until = performance.now() + 60
      while (performance.now() < until);
      t.same(payloadOf((await client.received(i))[i - 1]!), {
        lock: '1234ms',
        statement: '3s',
        isolation: 'repeatable read',
        date: 'SQL, DMY',
        path: 'mine'
      })
    }
  }
)

t.test('a writer keeps its timeouts, and waits for nobody', async (t) => {
  const { dbUri, owner } = await withSettings({ lock_timeout: "'200ms'", statement_timeout: "'30s'" })
  await migrated(dbUri)
  await query(owner, `select pgws.retain('kept:*', '1 hour')`)
  const { fastify } = await build(t, { dbUri, publishTimeout: 30_000 })
  // Until a server is the sequencer, writers lock it themselves.
  await until(async () => (await fastify.pgws.health()).outbox.sequencer)
  const writer = new pg.Client(dbUri)
  await writer.connect()
  t.teardown(() => writer.end())
  const own = async () => {
    const { rows } = await writer.query(
      `select current_setting('lock_timeout') as lock, current_setting('statement_timeout') as statement`
    )
    return rows[0]
  }
  await writer.query('begin')
  await writer.query(`select pgws.publish('kept:1', '1')`)
  t.same(await own(), { lock: '200ms', statement: '30s' })
  await writer.query('commit')
  t.same(await own(), { lock: '200ms', statement: '30s' })
  // Servers publish one after the other. A writer does not wait for them, so its timeout has no effect.
  const holder = new pg.Client(owner)
  await holder.connect()
  t.teardown(() => holder.end())
  await holder.query('begin; lock table pgws.commit_lock in exclusive mode')
  const sent = fastify.pgws.publish('kept:1', 'the server waits')
  await writer.query(`select pgws.publish('kept:1', '2')`)
  await holder.query('commit')
  await sent
  await writer.query(`select pgws.publish('kept:1', '3')`)
  const { messages } = await fastify.pgws.history('kept:1', undefined, 10)
  t.same(messages.map(({ text }) => JSON.parse(text).payload).sort(), [1, 2, 3, 'the server waits'])
})

t.test('if the database rejects writes, GET /health says so, and durable messages wait', async (t) => {
  const owner = await withSchema('kept:*')
  const name = /\/(test_\w+)/.exec(owner)![1]
  await query(owner, `alter database ${name} set default_transaction_read_only = on`)
  const { fastify, http, ws, lines } = await build(t, { dbUri: owner, publishTimeout: 60_000 })
  t.match(await fastify.pgws.health(), { status: 'degraded', pool: { status: 'read-only' } })
  t.ok(lines.some((line) => line.includes('the database is read-only')))
  // These are not stored.
  const plain = await open(t, `${ws}/plain/${TOKEN}`)
  await fastify.pgws.publish('plain', 'passes')
  t.equal(payloadOf((await plain.received(1))[0]!), 'passes')
  // A request does not wait.
  const answer = await fetch(`${http}/publish`, {
    method: 'POST',
    headers: { authorization: `Bearer ${TOKEN}`, 'content-type': 'application/json' },
    body: JSON.stringify({ channel: 'kept:1', payload: 0 })
  })
  t.equal(answer.status, 503)
  t.ok(answer.headers.get('retry-after'))
  const kept = await open(t, `${ws}/kept%3A1/${TOKEN}`)
  kept.send('waits')
  await query(owner, `begin read write; alter database ${name} reset default_transaction_read_only; commit`)
  t.equal(payloadOf((await kept.received(1))[0]!), 'waits')
  await until(async () => (await fastify.pgws.health()).status === 'ok')
})

t.test('the schema can be installed in a database that is read-only by default', async (t) => {
  const { dbUri } = await withSettings({ default_transaction_read_only: 'on' })
  await migrated(dbUri)
  const { fastify } = await build(t, { dbUri, migrate: true })
  t.match(await fastify.pgws.health(), { status: 'degraded', schema: { status: 'ok' } })
})

for (const [sqlstate, trouble] of Object.entries({
  '40001': 'a serialization failure',
  '40P01': 'a deadlock',
  '55P03': 'a lock that is not available',
  '57014': 'a statement that is cancelled',
  '25006': 'a read-only transaction'
})) {
  t.test(`retries after ${trouble} (${sqlstate})`, async (t) => {
    const owner = await withSchema('kept:*')
    await query(
      owner,
      `create sequence public.tries;
       create function public.fail() returns trigger language plpgsql as $$ begin
         if nextval('public.tries') <= tg_argv[0]::int then raise exception 'in the way' using errcode = '${sqlstate}'; end if;
         return new; end $$;
       create trigger fail before insert on pgws.messages for each row execute function public.fail(2)`
    )
    const { fastify, ws } = await build(t, { dbUri: owner })
    const client = await open(t, `${ws}/kept%3A1/${TOKEN}`)
    // A publication that does not wait is tried a few times.
    await fastify.pgws.publish('kept:1', 'published')
    // A message that may wait is tried more often.
    await query(
      owner,
      `drop trigger fail on pgws.messages; alter sequence public.tries restart;
       create trigger fail before insert on pgws.messages for each row execute function public.fail(9)`
    )
    client.send('sent')
    t.same((await client.received(2)).map(payloadOf), ['published', 'sent'])
    const { messages } = await fastify.pgws.history('kept:1', undefined, 10)
    t.same(
      messages.map(({ text }) => JSON.parse(text).payload),
      ['published', 'sent']
    )
  })
}
