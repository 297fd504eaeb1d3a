import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t from 'tap'
import { WebSocket } from 'ws'
import { FaultProxy } from '../../support/fault-proxy.js'
import {
  build,
  DEADLINE,
  LISTEN_CHANNEL,
  open,
  query,
  sqlListener,
  token,
  until
} from '../../support/helper.js'
import { createDatabase, sharedPostgres } from '../../support/postgres.js'

const postgres = await sharedPostgres(t)
const reader = token({ mode: 'r' })
const WRITERS = 16

/** A client that disconnects and resumes from its last id, over and over. */
class Wanderer {
  readonly got: string[] = []
  gaps = 0
  #last: string | undefined
  #over = false
  #webSocket: WebSocket | undefined
  readonly #url: string

  constructor(url: string) {
    this.#url = url
  }

  async wander(longest: number): Promise<void> {
    while (!this.#over) {
      await this.#visit(`${this.#url}?since=${this.#last ?? 'earliest'}`, Math.random() * longest)
    }
  }

  stop(): void {
    this.#over = true
    this.#webSocket?.terminate()
  }

  /** Stays connected until it has received everything. */
  async settle(count: number): Promise<void> {
    this.stop()
    await sleep(50)
    await this.#visit(`${this.#url}?since=${this.#last ?? 'earliest'}`, DEADLINE, count)
  }

  async #visit(url: string, time: number, count = Number.POSITIVE_INFINITY): Promise<void> {
    const webSocket = new WebSocket(url)
    this.#webSocket = webSocket
    webSocket.on('error', () => {})
    let left = false
    webSocket.on('message', (data) => {
      // A client does not receive what arrives after it has left.
      if (left) return
      const { id, event, payload } = JSON.parse(String(data))
      if (event === 'HistoryGap') this.gaps++
      else {
        this.#last = id
        this.got.push(payload)
      }
    })
    const end = Date.now() + time
    while (Date.now() < end && this.got.length < count && (count < 1e9 || !this.#over)) await sleep(2)
    left = true
    webSocket.terminate()
  }
}

t.test('delivers each committed message once, in one order, as clients come and go', async (t) => {
  const dbUri = await createDatabase(postgres)
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const { ws, fastify } = await build(t, {
    dbUri,
    listenerUri: proxy.uri(dbUri),
    migrate: true,
    checkListenerInterval: 300,
    // On a busy machine, the listener may need long to be back.
    publishTimeout: DEADLINE
  })
  await query(dbUri, `select pgws.retain('race', '1 hour')`)
  await until(() => fastify.pgws.listenerState.up)
  const url = `${ws}/race/${reader}`
  const wanderers = Array.from({ length: 8 }, () => new Wanderer(url))
  t.teardown(() => {
    for (const wanderer of wanderers) wanderer.stop()
  })
  // This client never disconnects, so it depends on the server's replay after each outage of its listener.
  const resident = await open(t, `${url}?since=earliest`)
  const wandering = wanderers.map((wanderer, i) => wanderer.wander(i < 4 ? 30 : 200))

  const committed = new Set<string>()
  const writing = Array.from({ length: WRITERS }, async (_, writer) => {
    const client = new pg.Client(dbUri)
    await client.connect()
    for (let n = 0; n < 80; n++) {
      const texts = Array.from({ length: 1 + Math.floor(Math.random() * 3) }, (_, k) => `${writer} ${n} ${k}`)
      await client.query('begin')
      for (const text of texts) {
        const size = Math.random() < 0.05 ? 9000 : 0
        await client.query(`select pgws.publish_text('race', $1)`, [`${text} ${'x'.repeat(size)}`])
      }
      if (Math.random() < 0.5) await sleep(Math.random() * 20)
      if (Math.random() < 0.2) await client.query('rollback')
      else {
        await client.query('commit')
        for (const text of texts) committed.add(text)
      }
    }
    await client.end()
  })
  // The server publishes messages of its own in between, and loses its listener again and again.
  const sender = await open(t, `${ws}/race/${token({ mode: 'w' })}`)
  const sending = (async () => {
    for (let n = 0; n < 200; n++) {
      sender.send(`socket ${n} 0`)
      committed.add(`socket ${n} 0`)
      await sleep(5)
    }
  })()
  const cutting = (async () => {
    for (let n = 0; n < 10; n++) {
      // Also while it is still catching up.
      await sleep(n % 2 ? 20 + Math.random() * 100 : 200)
      proxy.cut()
    }
  })()
  await Promise.all([...writing, sending, cutting])
  await until(async () => {
    const { rows } = await query(
      dbUri,
      'select count(*)::int as n from pgws.messages where position is not null'
    )
    return rows[0].n === committed.size
  })
  const { rows } = await query(
    dbUri,
    `select message::json ->> 'payload' as payload from pgws.history('race', null, 100000)`
  )
  const name = (payload: string) => payload.split(' ').slice(0, 3).join(' ')
  const order = rows.map(({ payload }) => name(payload))
  t.equal(order.length, committed.size)
  t.same(new Set(order), committed)

  await Promise.all(wanderers.map((wanderer) => wanderer.settle(order.length)))
  await Promise.all(wandering)
  for (const { got, gaps } of wanderers) {
    t.equal(gaps, 0)
    t.ok(JSON.stringify(got.map(name)) === JSON.stringify(order), `${got.length} of ${order.length}`)
  }
  await resident.received(order.length)
  const seen = resident.messages.map((text) => name(JSON.parse(text).payload))
  t.ok(JSON.stringify(seen) === JSON.stringify(order), `resident: ${seen.length} of ${order.length}`)
})

t.test('after an outage of the listener, sockets get what they missed before anything newer', async (t) => {
  const dbUri = await createDatabase(postgres)
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const { ws, fastify } = await build(t, {
    dbUri,
    listenerUri: proxy.uri(dbUri),
    migrate: true,
    checkListenerInterval: 300
  })
  await query(dbUri, `select pgws.retain('a', '1 hour')`)
  const client = await open(t, `${ws}/a/${reader}`)
  const send = (text: string) => query(dbUri, `select pgws.publish_text('a', $1)`, [text])
  await send('1')
  await client.received(1)
  proxy.mode = 'refuse'
  proxy.cut()
  await until(() => !fastify.pgws.listenerState.up)
  await send('2')
  await send('x'.repeat(20_000))
  await send('3')
  proxy.mode = 'pass'
  await until(() => fastify.pgws.listenerState.up)
  await send('4')
  await client.received(5)
  t.same(
    client.messages.map((text) => JSON.parse(text).payload.slice(0, 1)),
    ['1', '2', 'x', '3', '4']
  )
  // Messages that have been deleted by then cannot be replayed, and the client gets a history gap.
  proxy.mode = 'refuse'
  proxy.cut()
  await until(() => !fastify.pgws.listenerState.up)
  await send('5')
  await query(
    dbUri,
    `select pgws.catch_up(); update pgws.messages set expires_at = '-infinity'; select pgws.clean()`
  )
  await send('6')
  proxy.mode = 'pass'
  await client.received(7)
  t.match(JSON.parse(client.messages[5]!), {
    event: 'HistoryGap',
    channel: 'a',
    payload: { requested: null }
  })
  t.equal(JSON.parse(client.messages[6]!).payload, '6')
})

t.test('messages of one statement keep their order whatever join PostgreSQL chooses', async (t) => {
  const dbUri = await createDatabase(postgres)
  await build(t, { dbUri, migrate: true })
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  await client.query(`select pgws.retain('kept', interval '1 hour')`)
  const { payloads } = await sqlListener(t, dbUri)
  const sizes = [10, 9000, 20_000]
  const bodies = Array.from({ length: 60 }, (_, n) => `{"n":${n},"more":"${'x'.repeat(sizes[n % 3]!)}"}`)
  const channels = bodies.map((_, n) => (n % 2 === 0 ? 'kept' : `${n}`))
  const ages = channels.map((channel) => (channel === 'kept' ? '1 hour' : null))
  for (const disabled of ['none', 'enable_nestloop', 'enable_hashjoin', 'enable_mergejoin']) {
    if (disabled !== 'none') await client.query(`set ${disabled} = off`)
    const keys = ages.map((age, n) => age && `${disabled} ${n}`)
    await client.query(
      `select pgws.relay((select retention_version from pgws.settings), $1, $2, $3, $4::interval[], $5)`,
      [LISTEN_CHANNEL, channels, bodies, ages, keys]
    )
    await until(() => payloads.length === bodies.length)
    const order = payloads.splice(0).map((text) => {
      const { n, channel, position } = JSON.parse(text)
      return n ?? (channel === 'kept' ? String(position).padStart(9) : Number(channel))
    })
    t.same(
      order.filter((name) => typeof name === 'number'),
      bodies.map((_, n) => n).filter((n) => n % 3 === 0 || n % 2 === 1),
      disabled
    )
    const positions = order.filter((name) => typeof name === 'string')
    t.same(positions, positions.toSorted(), disabled)
  }
})
