import t from 'tap'
import { build, query, token, withPostgres } from '../support/helper.js'

const { database, migrated } = await withPostgres(t)
const dbUri = await migrated()
const { http, fastify } = await build(t, { dbUri })
const EVIL = `o'clock "ü" \\ <img src=x onerror=x>`

async function get(path: string, claims: object = { admin: true }, base = http) {
  const response = await fetch(base + path, { headers: { authorization: `Bearer ${token(claims)}` } })
  return { status: response.status, body: (await response.json()) as Rule[] & { code?: string } }
}

interface Rule {
  [name: string]: unknown
  sql: { change: string; end: string }
}

const rule = (rules: Rule[], member: string, value: string) => rules.find((one) => one[member] === value)

t.test('lists the retention rules, with SQL that creates and removes them', async (t) => {
  await query(
    dbUri,
    `select pgws.retain('a', '1 day'), pgws.retain('b:*', '1 year 2 mons 3 days 04:05:06.5', 7)`
  )
  await query(dbUri, `select pgws.retain($1, '90 minutes')`, [EVIL])
  const { status, body } = await get('/retention')
  t.equal(status, 200)
  t.match(rule(body, 'pattern', 'a'), { age: '1 day', maxMessages: null })
  t.match(rule(body, 'pattern', 'b:*'), {
    age: '1 year 2 months 3 days 4 hours 5 minutes 6.5 seconds',
    maxMessages: 7
  })
  t.match(rule(body, 'pattern', EVIL), { age: '1 hour 30 minutes' })
  t.same(await fastify.pgws.retention(), body)
  for (const conforming of ['on', 'off']) {
    const before = await query(dbUri, 'select * from pgws.retention order by pattern')
    const settings = `set standard_conforming_strings = ${conforming}; set intervalstyle = sql_standard;`
    for (const { sql } of body) await query(dbUri, `${settings} ${sql.end}`)
    t.same((await get('/retention')).body, [])
    for (const { sql } of body) await query(dbUri, `${settings} ${sql.change}`)
    t.same(await query(dbUri, 'select * from pgws.retention order by pattern'), before)
  }
})

t.test('lists the watched tables, with SQL that creates and removes the watches', async (t) => {
  await query(dbUri, `create schema "My Shop"`)
  await query(dbUri, `create table "My Shop"."Orders" (id int primary key, title text, total int)`)
  await query(
    dbUri,
    'create table parts (id int, region text, primary key (id, region)) partition by list (region)'
  )
  await query(dbUri, `create table parts_eu partition of parts for values in ('eu')`)
  const watch = (arguments_: string) => query(dbUri, `select pgws.watch(${arguments_})`)
  await watch(`'"My Shop"."Orders"', 'orders'`)
  await watch(
    `'"My Shop"."Orders"', 'large:{id}', '{insert,update}', '{id,title}', $$record.total > 5 and record.title <> 'new.x \\ ''y'''$$`
  )
  await watch(`'"My Shop"."Orders"', 'gone', '{DELETE,TRUNCATE}', null, 'record.total > 9'`)
  await watch(`'parts', 'parts', '{UPDATE}'`)
  await query(dbUri, `select pgws.watch('parts', $1, '{INSERT}')`, [EVIL])
  const { status, body } = await get('/watches')
  t.equal(status, 200)
  t.equal(body.length, 5, 'a partition has the watches of its table')
  t.match(rule(body, 'channel', 'orders'), {
    table: '"My Shop"."Orders"',
    events: ['DELETE', 'INSERT', 'UPDATE'],
    columns: null,
    condition: null
  })
  t.match(rule(body, 'channel', 'large:{id}'), {
    events: ['INSERT', 'UPDATE'],
    columns: ['id', 'title'],
    condition: /record\.total > 5.*record\.title <> 'new\.x/
  })
  t.match(rule(body, 'channel', 'gone'), { events: ['DELETE', 'TRUNCATE'], condition: /record\.total > 9/ })
  t.match(rule(body, 'channel', EVIL), { table: 'public.parts', events: ['INSERT'] })
  t.same(await fastify.pgws.watches(), body)
  const triggers = () =>
    query(dbUri, `select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal order by 1`)
  const before = await triggers()
  for (const conforming of ['on', 'off']) {
    const settings = `set standard_conforming_strings = ${conforming};`
    for (const { sql } of body) await query(dbUri, `${settings} ${sql.end}`)
    t.same((await get('/watches')).body, [])
    for (const { sql } of body) await query(dbUri, `${settings} ${sql.change}`)
    t.same(await triggers(), before)
    t.same((await get('/watches')).body, body)
  }
})

t.test('the lists are for administrators, and need the schema', async (t) => {
  const bare = await build(t, { dbUri: await database() })
  for (const path of ['/retention', '/watches']) {
    t.equal((await get(path, { mode: 'rw' })).status, 403)
    t.equal((await get(path, { admin: true, exp: 1 })).status, 401)
    t.match(await get(`${path}?limit=5`), { status: 400, body: { code: 'FST_PGWS_BAD_QUERY' } })
    t.match(await get(path, undefined, bare.http), { status: 501, body: { code: 'FST_PGWS_NOT_INSTALLED' } })
  }
})
