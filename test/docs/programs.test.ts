import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Centrifuge } from 'centrifuge'
import Fastify, { type FastifyInstance } from 'fastify'
import pg from 'pg'
import { Server } from 'socket.io'
import { io as connect } from 'socket.io-client'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { Emitter, publish } from '../../emitter.js'
import pgWebsockets from '../../index.js'
import { createAdapter } from '../../socket.io.js'
import { build, open, query, SECRET, token, until, withPostgres } from '../support/helper.js'
import { snippet } from '../support/pages.js'
import { runFragment } from '../support/run-fragment.js'

const { database, migrated } = await withPostgres(t)

/** A host that does not listen, and is closed after the test. */
function host(t: Test): FastifyInstance {
  const fastify = Fastify()
  t.teardown(() => fastify.close())
  return fastify as FastifyInstance
}

async function listen(fastify: FastifyInstance): Promise<number> {
  await fastify.listen({ port: 0, host: '127.0.0.1' })
  return (fastify.server.address() as AddressInfo).port
}

t.test("the README's application sends a greeting to its browser", async (t) => {
  process.env.DATABASE_URL = await database()
  process.env.JWT_SECRET = SECRET
  const application = snippet('README.md', "fastify.post('/greet'").replace('port: 3000', 'port: 0')
  const fastify = (await runFragment(
    application,
    { Fastify: () => Fastify(), pgWebsockets },
    'fastify'
  )) as FastifyInstance
  t.teardown(() => fastify.close())
  const { port } = fastify.server.address() as AddressInfo

  const shown: unknown[] = []
  class Local extends Centrifuge {
    constructor(url: string, options: object) {
      const local = url.replace('wss://example.org', `ws://127.0.0.1:${port}`)
      super(local, { ...options, websocket: WebSocket })
      t.teardown(() => this.disconnect())
    }
  }
  await runFragment(snippet('README.md', "from 'centrifuge'"), {
    Centrifuge: Local,
    fetch: async () => new Response(token({ mode: 'r', channels: ['chat'] })),
    console: { log: (data: unknown) => shown.push(data) }
  })
  await until(() => fastify.pgws.channels().length === 1)
  const answer = await fetch(`http://127.0.0.1:${port}/greet`, { method: 'POST' })
  t.same(await answer.json(), { published: true })
  await until(() => shown.length === 1)
  t.same(shown, [{ hello: 'everyone' }])
})

t.test('docs/plugin.md: two registrations in one application', async (t) => {
  const fastify = host(t)
  const scope = { fastify, pgWebsockets, dbUri: await database(), jwtSecret: SECRET }
  await runFragment(snippet('docs/plugin.md', "decorator: 'orders'"), scope)
  const port = await listen(fastify)
  const jwt = token({ mode: 'r' })
  const orders = await open(t, `ws://127.0.0.1:${port}/orders/news/${jwt}`)
  const stock = await open(t, `ws://127.0.0.1:${port}/stock/news/${jwt}`)
  const decorated = fastify as unknown as Record<'orders' | 'stock', FastifyInstance['pgws']>
  await decorated.orders.publish('news', 'of orders')
  await decorated.stock.publish('news', 'of stock')
  t.match(await orders.received(1), [/"of orders"/])
  t.match(await stock.received(1), [/"of stock"/])
})

t.test('docs/plugin.md: history, and several messages with one key', async (t) => {
  const { fastify, ws } = await build(t, { dbUri: await database(), migrate: true })
  const stock = await open(t, `${ws}/stock/${token({ mode: 'r' })}`)
  const code = snippet('docs/plugin.md', 'publishAll(')
  const counts: unknown[] = []
  const scope = { fastify, console: { log: (...all: unknown[]) => counts.push(...all) } }
  await runFragment(code, scope)
  t.same(counts, [0, undefined])
  t.match(JSON.parse((await stock.received(1))[0]!), { payload: 3, claims: { sub: 'shop' } })
})

t.test(
  "docs/durable-channels.md: both kinds of clients read an application's list and its changes",
  async (t) => {
    const dbUri = await migrated('orders')
    await query(dbUri, 'create table orders (id int primary key, state text)')
    await query(dbUri, `insert into orders values (1, 'new'), (2, 'new')`)
    const change = (id: number, state: string) =>
      query(
        dbUri,
        `with changed as (update orders set state = $2 where id = $1 returning *)
       select pgws.publish('orders', to_jsonb(changed)) from changed`,
        [id, state]
      )
    let pool: pg.Pool | undefined
    const { http, ws } = await build(
      t,
      { dbUri },
      {
        async after(fastify) {
          const scope = { fastify, dbUri, pg }
          pool = (await runFragment(
            snippet('docs/durable-channels.md', 'pgws.position() as position'),
            scope,
            'pool'
          )) as pg.Pool
        }
      }
    )
    t.teardown(() => pool!.end())
    const address = (url: string) => url.replace('wss://example.org', ws)
    class Socket extends WebSocket {
      constructor(url: string) {
        super(address(url))
        t.teardown(() => this.terminate())
      }
    }
    class Client extends Centrifuge {
      constructor(url: string, options: object) {
        super(address(url), { ...options, websocket: WebSocket })
        t.teardown(() => this.disconnect())
      }
    }
    const clients = {
      websocket: snippet('docs/durable-channels.md', 'show(message.payload)'),
      sdk: snippet('docs/durable-channels.md', 'async getState()')
    }
    for (const [name, code] of Object.entries(clients)) {
      const shown: Record<number, string> = {}
      const [one, two] = [`one for ${name}`, `two for ${name}`]
      await change(1, one)
      let loads = 0
      await runFragment(code, {
        token: token({ mode: 'r' }),
        WebSocket: Socket,
        Centrifuge: Client,
        async fetch(path: string) {
          const response = await fetch(http + path)
          // Published after the list was read, and before the client connects.
          if (loads++ === 0) await change(2, two)
          return response
        },
        show: ({ id, state }: { id: number; state: string }) => (shown[id] = state),
        reload: () => t.fail('nothing is missing')
      })
      await until(() => shown[2] === two)
      await change(1, 'last')
      await until(() => shown[1] === 'last')
      t.equal(loads, 1)
    }
  }
)

t.test('docs/several-nodes.md: a plugin lists and disconnects clients of all nodes', async (t) => {
  const dbUri = await database()
  const [one, other] = [await build(t, { dbUri }), await build(t, { dbUri })]
  await until(() => one.fastify.pgws.nodes().length === 2 && other.fastify.pgws.nodes().length === 2)
  const alice = await open(t, `${other.ws}/chat/${token({ mode: 'r', sub: 'alice' })}`)
  const closed = alice.closed()
  const logged: unknown[] = []
  const scope = { fastify: one.fastify, console: { log: (...all: unknown[]) => logged.push(...all) } }
  const code = snippet('docs/several-nodes.md', 'pgws.disconnect(')
  const result = await runFragment(code, scope, '{ closed, missing, confirmation }')
  t.match(result, { closed: 1, confirmation: { nodes: 2 } })
  t.match(await closed, { code: 4001, reason: 'signed out' })
  t.match(logged[1], [{ channel: 'chat', connections: 1 }])
  t.match(logged[2], [{ subject: 'alice' }])
})

t.test('docs/migrating/pgws.md: an endpoint for audiences', async (t) => {
  const fastify = host(t)
  const dbUri = await database()
  const code = snippet('docs/migrating/pgws.md', 'audiences:')
  await runFragment(code, { fastify, pgWebsockets, dbUri, jwtSecret: SECRET })
  const port = await listen(fastify)
  const client = await open(t, `ws://127.0.0.1:${port}/ws`, { headers: { 'x-user': 'alice' } })
  const sql = new pg.Client(dbUri)
  await sql.connect()
  t.teardown(() => sql.end())
  await sql.query(`select pg_notify('news', 'bob,{"n": 1}'), pg_notify('news', 'alice,{"n": 2}')`)
  t.match(JSON.parse((await client.received(1))[0]!), { channel: 'news', payload: { n: 2 } })
})

t.test('docs/socket.io.md: the server and the emitter', async (t) => {
  process.env.DATABASE_URL = await database()
  t.match(
    snippet('docs/migrating/socket.io-postgres-adapter.md', 'createAdapter'),
    /^import \{ createAdapter \}/
  )
  const { httpServer, io, pool } = (await runFragment(
    snippet('docs/socket.io.md', 'createAdapter(pool)').replace('3000', "0, '127.0.0.1'"),
    { createServer, createAdapter, pg, Server },
    '{ httpServer, io, pool }'
  )) as { httpServer: ReturnType<typeof createServer>; io: Server; pool: pg.Pool }
  t.teardown(async () => {
    await io.close()
    await pool.end()
  })
  if (!httpServer.listening) await once(httpServer, 'listening')
  const { port } = httpServer.address() as AddressInfo
  const orders = io.of('/orders')
  orders.on('connection', (socket) => void socket.join('customer-7'))

  const client = connect(`http://127.0.0.1:${port}`, { transports: ['websocket'] })
  const customer = connect(`http://127.0.0.1:${port}/orders`, { transports: ['websocket'] })
  t.teardown(() => {
    client.disconnect()
    customer.disconnect()
  })
  const welcome = new Promise((resolve) => client.on('welcome', resolve))
  client.emit('hello')
  t.equal(await welcome, client.id)
  await until(() => orders.adapter.rooms.has('customer-7'))

  const { fastify, ws } = await build(t, { dbUri: process.env.DATABASE_URL })
  const chat = await open(t, `${ws}/chat/${token({ mode: 'r' })}`)
  const shipped = new Promise((resolve) => customer.on('shipped', resolve))
  await runFragment(snippet('docs/socket.io.md', 'emitter.flushed()'), { Emitter, publish, pg })
  t.same(await shipped, { order: 5 })
  t.match(JSON.parse((await chat.received(1))[0]!), { payload: { hello: 'everyone' } })
  t.ok(fastify.pgws.listenerState.up)
})
