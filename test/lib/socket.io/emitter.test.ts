import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createAdapter as createOriginal } from '@socket.io/postgres-adapter'
import pg from 'pg'
import t, { type Test } from 'tap'
import { Emitter, publish } from '../../../emitter.js'
import { migrate } from '../../../lib/schema/migrate.js'
import {
  build,
  LISTEN_CHANNEL,
  open as openWebSocket,
  query,
  sqlListener,
  token,
  until,
  withPostgres
} from '../../support/helper.js'
import { root } from '../../support/root.js'
import { open, startNode, startNodes } from '../../support/socket-io.js'

const { database } = await withPostgres(t)

function poolOf(t: Test, dbUri: string) {
  const pool = new pg.Pool({ connectionString: dbUri })
  t.teardown(() => pool.end())
  return pool
}

async function clientOf(t: Test, dbUri: string) {
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  return client
}

t.test('the emitter reaches clients and servers', async (t) => {
  const dbUri = await database()
  const nodes = await startNodes(t, dbUri, 2)
  const clients = await Promise.all(nodes.map((node) => open(t, node)))
  const sockets = nodes.map(({ io }, i) => io.sockets.sockets.get(clients[i]!.socket.id!)!)
  sockets[0]!.join('red')
  const emitter = new Emitter(poolOf(t, dbUri))
  t.equal(emitter.emit('all', 1, { two: 2 }), true)
  emitter.to('red').emit('red')
  emitter.in(['red', 'blue']).emit('red')
  emitter.except('red').emit('not red')
  emitter.compress(true).emit('compressed')
  emitter.emit('binary', Buffer.from([1, 2]))
  emitter.emit('large', 'x'.repeat(9000))
  for (let i = 0; i < 30; i++) emitter.emit('equal')
  emitter.emit('end')
  await emitter.flushed()
  for (const client of clients) await client.received('end', 1)
  const names = clients.map(({ events }) => events.map(([name]) => name).filter((name) => name !== 'equal'))
  t.same(names[0], ['all', 'red', 'red', 'compressed', 'binary', 'large', 'end'])
  t.same(names[1], ['all', 'not red', 'compressed', 'binary', 'large', 'end'])
  t.same(clients[0]!.events[0], ['all', 1, { two: 2 }])
  t.same(Buffer.from(clients[0]!.values('binary')[0] as Buffer), Buffer.from([1, 2]))
  t.equal(clients[1]!.values('equal').length, 30)
  await until(() => {
    emitter.volatile.emit('volatile')
    return clients.every((client) => client.values('volatile').length > 0)
  })

  await emitter.in('red').socketsJoin(['blue', 'green'])
  await until(() => sockets[0]!.rooms.has('green'))
  t.notOk(sockets[1]!.rooms.has('green'))
  await emitter.socketsLeave('green')
  await until(() => !sockets[0]!.rooms.has('green'))
  const received: unknown[] = []
  for (const { io } of nodes) io.on('told', (...values: unknown[]) => received.push(values))
  await emitter.serverSideEmit('told', 1, 'two')
  await until(() => received.length === 2)
  t.same(received[0], [1, 'two'])
  t.throws(() => emitter.serverSideEmit('told', () => {}), /not supported/)
  t.throws(() => emitter.emit('disconnect'), /reserved/)
  await emitter.in('blue').disconnectSockets(true)
  await until(() => clients[0]!.socket.disconnected)
  t.ok(clients[1]!.socket.connected)
  // The emitter is not a node of the cluster.
  t.equal(await nodes[0]!.io.sockets.adapter.serverCount(), 2)
})

t.test('an emitter of a namespace keeps the options', async (t) => {
  const dbUri = await database()
  const adapter = { channelPrefix: 'other', tableName: 'other_attachments' }
  const node = await startNode(t, dbUri, { adapter })
  node.io.of('/admin')
  const client = await open(t, node, '/admin')
  const emitter = new Emitter(poolOf(t, dbUri), '/', adapter)
  await until(() => {
    emitter.of('admin').emit('large', 'x'.repeat(9000))
    return client.values('large').length > 0
  })
  t.equal(emitter.of('admin').nsp, '/admin')
})

t.test('works with version 0.5 of the original adapter', async (t) => {
  const dbUri = await database()
  await query(
    dbUri,
    'create table socket_io_attachments (id bigserial unique, created_at timestamptz default now(), payload bytea)'
  )
  const node = await startNode(t, dbUri, { factory: createOriginal as never })
  const client = await open(t, node)
  const emitter = new Emitter(poolOf(t, dbUri))
  await until(() => {
    emitter.emit('small')
    return client.values('small').length > 0
  })
  emitter.emit('large', 'x'.repeat(9000))
  await client.received('large', 1)
})

t.test('with a client instead of a pool, packets are part of its transaction', async (t) => {
  const dbUri = await database()
  const node = await startNode(t, dbUri)
  const client = await open(t, node)
  const connection = await clientOf(t, dbUri)
  const emitter = new Emitter(connection)
  await until(async () => {
    emitter.emit('start')
    await emitter.flushed()
    return client.values('start').length > 0
  })
  await connection.query('begin')
  emitter.emit('rolled back')
  await connection.query('rollback')
  await connection.query('begin')
  emitter.emit('committed')
  emitter.emit('committed', 'x'.repeat(9000))
  await connection.query('commit')
  await client.received('committed', 2)
  t.same(client.values('rolled back'), [])
})

t.test('reports failures to the error handler and to callers that wait', async (t) => {
  const dbUri = await database()
  const failures: Error[] = []
  const errorHandler = (error: Error) => failures.push(error)
  const emitter = new Emitter(poolOf(t, dbUri), '/', { errorHandler })
  // The table does not exist.
  emitter.emit('large', 'x'.repeat(9000))
  await t.rejects(emitter.flushed(), {
    code: 'FST_PGWS_SOCKET_IO_NOT_PUBLISHED',
    message: /socket_io_attachments/
  })
  await emitter.flushed()
  await t.rejects(emitter.socketsJoin('x'.repeat(9000)), /was not sent/)
  t.equal(failures.length, 2)
  const ended = new pg.Pool({ connectionString: dbUri })
  await ended.end()
  await t.rejects(new Emitter(ended, '/', { errorHandler }).socketsJoin('a'), /the pool has ended/)
})

t.test('publish() reaches websocket channels, with and without the schema', async (t) => {
  const dbUri = await database()
  const { ws } = await build(t, { dbUri })
  const reader = await openWebSocket(t, `${ws}/chat/${token({ mode: 'r' })}`)
  const pool = poolOf(t, dbUri)
  await publish(pool, 'chat', { hello: 1 }, { claims: { sub: 'me' } })
  await publish(pool, 'chat', Buffer.from('bytes'))
  const [first, second] = await reader.received(2)
  t.match(JSON.parse(first!), {
    event: 'WebsocketMessage',
    channel: 'chat',
    payload: { hello: 1 },
    claims: { sub: 'me' }
  })
  t.same([second, reader.binary[1]], ['bytes', true])
  await t.rejects(publish(pool, 'chat', 'x'.repeat(9000)), { code: 'FST_PGWS_PAYLOAD_TOO_LARGE' })
  await t.rejects(publish(pool, 'chat', undefined), /JSON value/)
  await t.rejects(publish(pool, '', 1), /channel/)
  const client = await clientOf(t, dbUri)
  await client.query('begin')
  await publish(client, 'chat', 'rolled back')
  await client.query('rollback')
  await client.query('begin')
  await publish(client, 'chat', 'committed')
  await client.query('commit')
  t.equal(JSON.parse((await reader.received(3))[2]!).payload, 'committed')

  const elsewhere = await sqlListener(t, dbUri, 'elsewhere')
  await publish(pool, 'chat', 1, { listenChannel: 'elsewhere' })
  await until(() => elsewhere.payloads.length === 1)

  await migrate(client, LISTEN_CHANNEL)
  await query(dbUri, "select pgws.retain('kept', '1 hour')")
  const sql = await sqlListener(t, dbUri)
  await publish(pool, 'kept', 'text')
  await publish(pool, 'kept', { large: 'x'.repeat(9000) })
  await publish(pool, 'kept', Buffer.from('bytes'))
  await publish(pool, 'kept', 1, { claims: { sub: 'me' } })
  await until(() => sql.payloads.length === 4)
  const { rows } = await query(dbUri, "select message::json from pgws.history('kept')")
  t.same(
    rows.map(({ message }) => message.payload),
    ['text', { large: 'x'.repeat(9000) }, Buffer.from('bytes').toString('base64'), 1]
  )
  t.equal(rows[3].message.claims.sub, 'me')
})

t.test('the emitter imports neither Fastify nor the adapter, the adapter no Fastify', async (t) => {
  function packagesOf(entry: string): string[] {
    const packages = new Set<string>()
    const seen = new Set<string>()
    function follow(file: URL) {
      if (seen.has(file.href)) return
      seen.add(file.href)
      for (const [, name] of readFileSync(file, 'utf8').matchAll(
        /^(?:import|export|\}) .*from '([^']+)'/gm
      )) {
        if (name!.startsWith('.')) follow(new URL(name!, file))
        else packages.add(name!)
      }
    }
    follow(pathToFileURL(join(root, 'dist', entry)))
    return [...packages].filter((name) => !name.startsWith('node:')).sort()
  }
  t.same(packagesOf('emitter.js'), ['@fastify/error', '@msgpack/msgpack', 'pg'])
  t.same(packagesOf('socket.io.js'), ['@fastify/error', '@msgpack/msgpack', 'pg', 'socket.io-adapter'])
})

t.test('refuses pools and clients of pg.native, with what to pass instead', async (t) => {
  const connectionString = await database()
  // As the class of pg.native, whose bindings need a compiler, has it.
  class Native extends pg.Client {
    readonly native = {}
  }
  const pool = new pg.Pool({ connectionString, Client: Native } as pg.PoolConfig)
  t.teardown(() => pool.end())
  const client = new Native({ connectionString })
  await client.connect()
  t.teardown(() => client.end())
  for (const target of [pool, client]) {
    const failures: Error[] = []
    const emitter = new Emitter(target, '/', { errorHandler: (error) => failures.push(error) })
    emitter.emit('never sent')
    await t.rejects(emitter.flushed(), {
      message: /pg\.native cannot be used: pass a pool or client of "pg" itself/
    })
    t.equal(failures.length, 1)
  }
})
