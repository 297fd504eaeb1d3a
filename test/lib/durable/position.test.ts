import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import { build, open, query, token, until, withPostgres } from '../../support/helper.js'
import { SDKS, sdk } from '../../support/sdk.js'

const { postgres, migrated } = await withPostgres(t)
const jwt = token({ mode: 'r', channels: ['items', 'other'] })

/** The version of each row, by id. */
type List = Record<string, number>
interface Change {
  id: number
  version: number
}

const LIST = '(select json_object_agg(id, version) from items)'

async function connected(t: Test, dbUri: string): Promise<pg.Client> {
  const client = new pg.Client(dbUri)
  client.on('error', () => {})
  await client.connect()
  t.teardown(() => client.end())
  return client
}

const ROWS = 20

/**
 * An application whose writers change rows and publish the changes in the same transactions until they are
 * stopped.
 */
async function application(t: Test, { writers = 6 } = {}) {
  const dbUri = await migrated('items')
  await query(dbUri, 'create table items (id int primary key, version int not null)')
  await query(dbUri, 'insert into items select id, 0 from generate_series(1, $1::int) id', [ROWS])
  const app = await build(t, { dbUri })
  let ended = false
  const working = Array.from({ length: writers }, async () => {
    const client = await connected(t, dbUri)
    while (!ended) {
      await client.query('begin')
      // In the order of the ids, to avoid deadlocks.
      const ids = [1, 2].map(() => 1 + Math.floor(Math.random() * ROWS)).sort((a, b) => a - b)
      for (const id of new Set(ids)) {
        await client.query(
          `with changed as (update items set version = version + 1 where id = $1 returning id, version)
           select pgws.publish('items', to_jsonb(changed)) from changed`,
          [id]
        )
      }
      if (Math.random() < 0.3) await sleep(Math.random() * 5)
      await client.query(Math.random() < 0.1 ? 'rollback' : 'commit')
    }
  })
  const written = Promise.all(working)
  // This must not hide an error of the test.
  written.catch(() => {})
  /** Stops the writers and returns the final content of the table. */
  async function end(): Promise<List> {
    ended = true
    await written
    const { rows } = await query(dbUri, `select ${LIST} as list`)
    return rows[0].list
  }
  return { ...app, dbUri, end }
}

const ONE_STATEMENT = `select ${LIST} as list, pgws.position() as position`

/** Reads the list and the id to resume from, in each of the ways in which an application can do so. */
const WAYS: Record<string, (client: pg.Client) => Promise<{ list: List; position: string }>> = {
  async 'one statement'(client) {
    const { rows } = await client.query(ONE_STATEMENT)
    return rows[0]
  },
  async 'a snapshot, the list first'(client) {
    await client.query('begin isolation level repeatable read')
    const { rows: lists } = await client.query(`select ${LIST} as list`)
    await sleep(Math.random() * 10)
    const { rows: positions } = await client.query('select pgws.position() as position')
    await client.query('commit')
    return { ...lists[0], ...positions[0] }
  }
}

/**
 * Checks that each change that is not in the list was received once and in order. Changes that are in the
 * list may be received again.
 */
function checkComplete(t: Test, list: List, changes: readonly Change[], last: List): void {
  for (const [id, final] of Object.entries(last)) {
    const seen = list[id]!
    const versions = changes.filter((change) => change.id === Number(id)).map(({ version }) => version)
    const expected = Array.from({ length: final - seen }, (_, i) => seen + 1 + i)
    const fresh = versions.filter((version) => version > seen)
    if (JSON.stringify(fresh) !== JSON.stringify(expected)) t.same(fresh, expected, `row ${id}`)
  }
}

/** Whether the newest change of each row has been received, or is in the list. */
const isUpToDate = (list: List, changes: readonly Change[], last: List) =>
  Object.entries(last).every(
    ([id, final]) => list[id] === final || changes.some((c) => c.id === Number(id) && c.version === final)
  )

for (const [way, read] of Object.entries(WAYS)) {
  t.test(`a raw websocket resumes after reading a list without a gap: ${way}`, async (t) => {
    const { dbUri, ws, end } = await application(t)
    const client = await connected(t, dbUri)
    const readers: { list: List; changes: () => Change[] }[] = []
    for (let i = 0; i < 25; i++) {
      const { list, position } = await read(client)
      if (Math.random() < 0.5) await sleep(Math.random() * 20)
      const socket = await open(t, `${ws}/items/${jwt}?since=${position}`)
      const changes = () =>
        socket.messages.map((text) => {
          const { pgws, payload } = JSON.parse(text)
          if (pgws) throw new Error(text)
          return payload as Change
        })
      readers.push({ list, changes })
    }
    const last = await end()
    for (const { list, changes } of readers) {
      await until(() => isUpToDate(list, changes(), last))
      checkComplete(t, list, changes(), last)
    }
    t.ok(Object.values(last).reduce((sum, version) => sum + version) > 100, 'there were changes to miss')
  })
}

// 5.3 has no getState.
for (const version of ['5.7', '5.8']) {
  t.test(
    `the SDK ${version} resumes from getState without a gap, and calls it again after a gap`,
    async (t) => {
      const { dbUri, ws, fastify, end } = await application(t)
      const readers = Array.from({ length: 8 }, () => {
        const client = sdk(t, ws, { token: jwt }, SDKS[version])
        const reader = { list: {} as List, changes: [] as Change[], loads: 0, client }
        const subscription = client.newSubscription('items', {
          minResubscribeDelay: 50,
          async getState() {
            const { rows } = await query(dbUri, ONE_STATEMENT)
            const { list, position } = rows[0]
            const [epoch, offset] = position.split('-') as [string, string]
            Object.assign(reader, { list, changes: [], loads: reader.loads + 1 })
            await sleep(Math.random() * 20)
            return { epoch, offset: Number.parseInt(offset, 16) }
          }
        } as never)
        subscription.on('publication', ({ data }) => reader.changes.push(data))
        subscription.subscribe()
        client.connect()
        return reader
      })
      await until(() => readers.every(({ changes }) => changes.length > 20))
      t.same(
        readers.map(({ loads }) => loads),
        readers.map(() => 1)
      )
      // A disconnected client recovers what it missed; nothing is loaded again.
      const [away, gone] = readers as [(typeof readers)[number], (typeof readers)[number]]
      away.client.disconnect()
      gone.client.disconnect()
      await sleep(20)
      away.client.connect()
      await until(() => away.client.state === 'connected')
      // As after a restore: recovery is no longer possible.
      const { rows } = await query(dbUri, 'select pgws.position() as id, pgws.new_epoch()')
      const known = (id: string) => fastify.pgws.history('items', id, 1).then(Boolean, () => false)
      await until(async () => !(await known(rows[0].id)))
      gone.client.connect()
      await until(() => gone.loads === 2)
      const last = await end()
      for (const { list, changes } of readers) {
        await until(() => isUpToDate(list, changes, last))
        checkComplete(t, list, changes, last)
      }
      t.equal(gone.loads, 2)
    }
  )
}

/** A server, and the current position of its database. */
async function server(t: Test, ...patterns: string[]) {
  const dbUri = await migrated(...patterns)
  const { ws, fastify } = await build(t, { dbUri })
  const sql = (text: string, values: unknown[] = []) => query(dbUri, text, values)
  const position = async (): Promise<string> => (await sql('select pgws.position() as id')).rows[0].id
  return { ws, fastify, dbUri, sql, position }
}

t.test('there is a position to resume from before the first message', async (t) => {
  const { ws, fastify, sql, position } = await server(t, 'items')
  const start = await position()
  t.match(start, /^[0-9a-f]{8}-0{16}$/)
  await sql(`select pgws.publish('items', '1')`)
  const socket = await open(t, `${ws}/items/${jwt}?since=${start}`)
  await sql(`select pgws.publish('items', '2')`)
  const messages = await socket.received(2)
  t.same(
    messages.map((text) => JSON.parse(text).payload),
    [1, 2]
  )
  t.match(await fastify.pgws.history('items', start, 10), { messages: { length: 2 }, gap: false })
})

t.test('deleted messages count: those deleted before the position are no gap', async (t) => {
  const { ws, fastify, sql, position } = await server(t, 'items')
  await sql(`select pgws.publish('items', to_jsonb(n)) from generate_series(1, 3) n`)
  await sql('select pgws.catch_up()')
  const before = await position()
  await sql(`update pgws.messages set expires_at = '-infinity'`)
  await sql('select pgws.clean()')
  t.equal((await sql('select from pgws.messages')).rowCount, 0)
  t.equal(await position(), before)
  // What was known about the channel is deleted, too.
  await sql(`update pgws.trimmed set trimmed_at = now() - interval '8 days'`)
  await sql('select pgws.clean()')
  t.equal((await sql('select from pgws.trimmed')).rowCount, 0)
  t.equal(await position(), before)
  const socket = await open(t, `${ws}/items/${jwt}?since=${before}`)
  await sql(`select pgws.publish('items', '4')`)
  t.match(JSON.parse((await socket.received(1))[0]!), { payload: 4 })
  t.match(await fastify.pgws.history('items', before, 10), { messages: { length: 1 }, gap: false })
})

t.test('uncommitted messages of the own transaction come after the position', async (t) => {
  const { dbUri, sql, position } = await server(t, 'items')
  await sql(`select pgws.publish('items', '1')`)
  await sql('select pgws.catch_up()')
  const before = await position()
  const client = await connected(t, dbUri)
  await client.query(`begin; select pgws.publish('items', '2')`)
  const { rows } = await client.query('select pgws.position() as id')
  t.equal(rows[0].id, before)
  await client.query('commit')
  await client.query('select pgws.catch_up()')
  const { rows: later } = await client.query('select id from pgws.history($1, $2)', ['items', before])
  t.equal(later.length, 1)
})

t.test('publishers and servers may read the position, other roles may not', async (t) => {
  const { dbUri } = await server(t, 'items')
  const id = `positions_${process.pid}`
  for (const [role, group] of [
    [`${id}_publisher`, 'pgws_publisher'],
    [`${id}_server`, 'pgws_server'],
    [`${id}_other`, undefined]
  ] as const) {
    await query(postgres.uri, `create role ${role} login ${group ? `in role ${group}` : ''}`)
    t.teardown(() => query(postgres.uri, `drop role ${role}`))
    const own = dbUri.replace(/\/\/[^@/]*@/, `//${role}@`)
    const reading = query(own, 'select pgws.position() as id')
    if (group === undefined) await t.rejects(reading, { code: '42501' })
    else t.match((await reading).rows[0].id, /^[0-9a-f]{8}-/)
  }
})

t.test(
  'pgws.history(channel, newest) starts with the newest, and the older forms of the call work as before',
  async (t) => {
    const { sql } = await server(t, 'items', 'other')
    await sql(
      `select pgws.publish(c, to_jsonb(n)) from generate_series(1, 10) n, unnest('{items,other}'::text[]) c`
    )
    const payloads = async (call: string, values: unknown[] = []) => {
      const { rows } = await sql(`select message::json -> 'payload' as payload from ${call}`, values)
      return rows.map(({ payload }) => payload)
    }
    // The sequencer may have begun in the middle of the statement: it stores the rest with its first round.
    await until(async () => (await payloads(`pgws.history('items')`)).length === 10)
    t.same(await payloads(`pgws.history('items', newest => 3)`), [10, 9, 8])
    t.same(await payloads(`pgws.history('items', 3)`), [10, 9, 8])
    const { rows } = await sql(`select id from pgws.history('items', newest => 8) offset 7`)
    const since = rows[0].id
    t.same(await payloads(`pgws.history('items', '${since}')`), [4, 5, 6, 7, 8, 9, 10])
    t.same(await payloads(`pgws.history('items', null, 2)`), [1, 2])
    t.same(await payloads(`pgws.history('items', limit_ => 2)`), [1, 2])
    t.same(await payloads('pgws.history($1, $2, $3)', ['items', since, 2]), [4, 5])
    t.same(await payloads('pgws.history($1, $2)', ['items', since]), [4, 5, 6, 7, 8, 9, 10])
    t.equal((await payloads(`pgws.history('items')`)).length, 10)
    await sql(`update pgws.messages set expires_at = '-infinity' where body::json ->> 'payload' = '9'`)
    t.same(await payloads(`pgws.history('items', newest => 3)`), [10, 8, 7])
  }
)
