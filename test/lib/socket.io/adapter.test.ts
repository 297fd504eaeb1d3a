import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createAdapter as createOriginal } from '@socket.io/postgres-adapter'
import t, { type Test } from 'tap'
import { createAdapter } from '../../../socket.io.js'
import { query, sqlListener, until, withPostgres } from '../../support/helper.js'
import { createDatabase, restartPostgres, testPostgres } from '../../support/postgres.js'
import { root } from '../../support/root.js'
import { acquainted, type Client, type Node, open, startNode, startNodes } from '../../support/socket-io.js'

const { database } = await withPostgres(t)
const failuresOf = (nodes: Node[]) => nodes.flatMap(({ failures }) => failures)

/** Three nodes with a client each, and the server of the first one. */
async function three(t: Test, options: Parameters<typeof startNodes>[3] = {}) {
  const dbUri = await database()
  const nodes = await startNodes(t, dbUri, 3, options)
  const clients = await Promise.all(nodes.map((node) => open(t, node)))
  return { dbUri, nodes, clients, io: nodes[0]!.io }
}

/** Sends a last event, and waits until each client has received it, and so everything before it. */
async function settled(io: Node['io'], clients: Client[], name = `end ${Math.random()}`) {
  io.emit(name)
  await Promise.all(clients.map((client) => client.received(name, 1)))
}

t.test('three nodes behave like one', async (t) => {
  const { nodes, clients, io } = await three(t)
  const socketOn = (i: number) => nodes[i]!.io.sockets.sockets.get(clients[i]!.socket.id!)!

  await t.test('broadcasts, rooms, except, local and volatile', async (t) => {
    io.emit('all', 'a', 1, { b: [null] })
    socketOn(1).join(['red', 'blue'])
    socketOn(2).join('red')
    io.to('red').emit('red')
    io.in(['red', 'blue']).except('blue').emit('only red')
    io.except('red').emit('not red')
    io.local.emit('local')
    await settled(io, clients)
    socketOn(1).broadcast.emit('others')
    await settled(nodes[1]!.io, clients)
    const names = clients.map(({ events }) =>
      events.map(([name]) => name).filter((name) => !/^end/.test(name as string))
    )
    t.same(names[0], ['all', 'not red', 'local', 'others'])
    t.same(names[1], ['all', 'red'])
    t.same(names[2], ['all', 'red', 'only red', 'others'])
    t.same(clients[2]!.events[0], ['all', 'a', 1, { b: [null] }])
    // Socket.IO drops it if the connection already has something to write.
    await until(async () => {
      io.volatile.emit('volatile')
      await new Promise((resolve) => setTimeout(resolve, 20))
      return clients.every((client) => client.values('volatile').length > 0)
    })
  })

  await t.test('collects all acknowledgements, or those that arrive before the timeout', async (t) => {
    const more = await Promise.all(Array.from({ length: 20 }, () => open(t, nodes[1]!)))
    const all = [...clients, ...more]
    for (const { socket } of all) socket.on('question', (answer) => answer('same'))
    const answers = await io.timeout(30_000).emitWithAck('question')
    t.same(answers, Array(all.length).fill('same'))
    clients[2]!.socket.off('question')
    // On a busy machine, not all of the others may answer within the first timeout.
    for (let timeout = 500, partly: unknown[] = []; partly.length < all.length - 1; timeout *= 2) {
      partly = await io
        .timeout(timeout)
        .emitWithAck('question')
        .catch((error) => error.responses)
      t.ok(partly.length < all.length, 'one client does not answer')
    }
  })

  await t.test('fetchSockets, socketsJoin, socketsLeave and disconnectSockets', async (t) => {
    socketOn(2).data = { name: 'three', bytes: Buffer.from([1, 2]) }
    const sockets = await io.fetchSockets()
    t.same(new Set(sockets.map(({ id }) => id)).size, sockets.length)
    const remote = sockets.find(({ id }) => id === clients[2]!.socket.id)!
    t.equal(remote.data.name, 'three')
    t.same(Buffer.from(remote.data.bytes), Buffer.from([1, 2]))
    t.ok(remote.rooms.has('red'))
    remote.join('green')
    remote.emit('to one', 5)
    await clients[2]!.received('to one', 1)
    await until(() => socketOn(2).rooms.has('green'))
    io.in('green').socketsLeave('green')
    await until(() => !socketOn(2).rooms.has('green'))
    io.socketsJoin('everywhere')
    await until(() => [0, 1, 2].every((i) => socketOn(i).rooms.has('everywhere')))
    const victim = await open(t, nodes[1]!)
    const ended = once(victim.socket as never, 'disconnect')
    nodes[2]!.io.in(victim.socket.id!).disconnectSockets(true)
    t.same((await ended)[0], 'io server disconnect')
  })

  await t.test('serverSideEmit, with and without acknowledgement', async (t) => {
    const seen: unknown[] = []
    for (const [i, node] of nodes.entries()) {
      node.io.on('told', (...values: unknown[]) => seen.push([i, ...values]))
      node.io.on('asked', (value: number, answer: (value: number) => void) => answer(value + i))
      node.io.on('silent', () => {})
    }
    io.serverSideEmit('told', 1, { two: 2 })
    await until(() => seen.length === 2)
    t.same(seen.sort(), [
      [1, 1, { two: 2 }],
      [2, 1, { two: 2 }]
    ])
    t.same((await io.serverSideEmitWithAck('asked', 10)).sort(), [11, 12])
  })

  await t.test('binary', async (t) => {
    const bytes = Buffer.from([0, 1, 255])
    io.emit('binary', { bytes, more: [new Uint8Array([7]), new Uint8Array([8]).buffer], date: new Date(0) })
    for (const client of clients) {
      const [value] = (await client.received('binary', 1)) as [
        { bytes: Buffer; more: Buffer[]; date: string }
      ]
      t.same(Buffer.from(value.bytes), bytes)
      t.same(
        value.more.map((one) => Buffer.from(one)),
        [Buffer.from([7]), Buffer.from([8])]
      )
      t.equal(value.date, '1970-01-01T00:00:00.000Z')
    }
  })

  await t.test('delivers large, small and equal packets in order, each once', async (t) => {
    const large = 'x'.repeat(20_000)
    for (let i = 0; i < 40; i++) {
      io.emit('order', `${2 * i}`, large)
      io.emit('order', `${2 * i + 1}`)
      if (i % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    }
    for (let i = 0; i < 50; i++) io.emit('equal')
    for (const client of clients) {
      t.same(
        await client.received('order', 80),
        Array.from({ length: 80 }, (_, i) => `${i}`)
      )
      t.equal((await client.received('equal', 50)).length, 50)
    }
  })

  await t.test('delivers packets of sizes around the limit of notifications', async (t) => {
    for (let size = 7850; size < 8050; size += 5) io.emit('size', 'y'.repeat(size))
    for (const client of clients) t.equal((await client.received('size', 40)).length, 40)
  })

  await t.test('keeps namespaces of any name apart', async (t) => {
    for (const nsp of ['/a"b', "/c'd\\", '/ü', `/${'long'.repeat(40)}`, '/nul\0']) {
      for (const node of nodes) node.io.of(nsp)
      await acquainted(nodes, nsp)
      const there = await Promise.all(nodes.map((node) => open(t, node, nsp)))
      nodes[1]!.io.of(nsp).emit('there', 1)
      for (const client of there) await client.received('there', 1)
    }
    await settled(io, clients)
    t.same(
      clients.flatMap((client) => client.values('there')),
      []
    )
  })

  await t.test('stops listening to a namespace that is closed', async (t) => {
    for (const node of nodes.slice(0, 2)) node.io.of('/closing')
    await until(async () => (await nodes[0]!.io.of('/closing').adapter.serverCount()) === 2)
    await nodes[1]!.io.of('/closing').adapter.close()
    await until(async () => (await nodes[0]!.io.of('/closing').adapter.serverCount()) === 1)
    const there = await open(t, nodes[0]!, '/closing')
    nodes[0]!.io.of('/closing').emit('x')
    await there.received('x', 1)
  })

  t.same(failuresOf(nodes), [])
})

t.test('an adapter that is initialized twice receives each packet once, and leaves completely', async (t) => {
  const nodes = await startNodes(t, await database(), 2)
  const [first, second] = nodes as [Node, Node]
  await Promise.all(nodes.map(({ io }) => io.of('/').adapter.init()))
  const client = await open(t, second)
  const numbers = Array.from({ length: 20 }, (_, n) => n)
  for (const n of numbers) first.io.emit('number', n)
  await settled(first.io, [client])
  t.strictSame(client.values('number'), numbers)
  await second.io.of('/').adapter.close()
  await until(async () => (await first.io.of('/').adapter.serverCount()) === 1)
  t.same(failuresOf(nodes), [])
})

t.test('follows the options requestsTimeout and uid', async (t) => {
  const { nodes, io } = await three(t, { adapter: { requestsTimeout: 200 } })
  for (const node of nodes.slice(1)) node.io.on('silent', () => {})
  nodes[1]!.io.on('some', (answer: (value: string) => void) => answer('one'))
  const error = await io.serverSideEmitWithAck('silent').catch((error) => error)
  t.match(error.message, /missing 2 responses/)
  t.same(error.responses, [])
  // On a busy machine, the answer may come after the timeout.
  await until(async () => {
    const { responses } = await io.serverSideEmitWithAck('some').catch((error) => error)
    return responses.join() === 'one'
  })
})

t.test('checks its options', async (t) => {
  const pool = {} as never
  t.throws(() => createAdapter(pool, { tableName: 'x; drop table y' }), { code: 'FST_PGWS_INVALID_OPTION' })
  t.throws(() => createAdapter(pool, { tableName: 'x'.repeat(60) }), /at most 54 bytes/)
  t.throws(() => createAdapter(pool, { heartbeatInterval: -1 }), /whole number/)
  t.throws(() => createAdapter(pool, { uid: 5 as never }), /must be a string/)
  t.throws(() => createAdapter(pool, { errorHandler: 5 as never }), /must be a function/)
})

t.test('uses tables and prefixes of any name', async (t) => {
  const dbUri = await database()
  await query(dbUri, 'create schema "My Schema"')
  const adapter = { tableName: '"My Schema"."Attach""ments"', channelPrefix: `pre"fix'` }
  const nodes = await startNodes(t, dbUri, 2, { adapter })
  const client = await open(t, nodes[1]!)
  nodes[0]!.io.emit('large', 'x'.repeat(9000))
  await client.received('large', 1)
  const { rows } = await query(dbUri, 'select count(*)::int as n from "My Schema"."Attach""ments"')
  t.equal(rows[0].n, 1)
  t.same(failuresOf(nodes), [])
})

t.test('works in one cluster with the original adapter', async (t) => {
  const dbUri = await database()
  const ours = await startNode(t, dbUri)
  await until(async () => (await query(dbUri, "select to_regclass('socket_io_attachments') as t")).rows[0].t)
  const original = await startNode(t, dbUri, { factory: createOriginal as never })
  const nodes = [ours, original]
  await acquainted(nodes)
  const clients = await Promise.all(nodes.map((node) => open(t, node)))
  for (const [i, { io }] of nodes.entries()) {
    io.emit('small', i)
    io.emit('binary', i, Buffer.from([i]))
    io.emit('large', i, 'x'.repeat(9000))
  }
  for (const client of clients) {
    for (const name of ['small', 'binary', 'large']) {
      t.same([...(await client.received(name, 2))].sort(), [0, 1], name)
    }
    client.socket.on('question', (answer) => answer(client.socket.id))
  }
  for (const { io } of nodes) {
    t.equal((await io.timeout(30_000).emitWithAck('question')).length, 2)
    t.equal((await io.fetchSockets()).length, 2)
    io.on('asked', (answer: (value: string) => void) => answer('yes'))
  }
  for (const { io } of nodes) t.same(await io.serverSideEmitWithAck('asked'), ['yes'])
  original.io.in(clients[0]!.socket.id!).socketsJoin('room')
  await until(() => ours.io.sockets.adapter.rooms.has('room'))
  ours.io.in(clients[1]!.socket.id!).disconnectSockets()
  await until(() => clients[1]!.socket.disconnected)
  await ours.io.close()
  await until(async () => (await original.io.sockets.adapter.serverCount()) === 1)
})

t.test('still counts nodes that have sent nothing for a while', async (t) => {
  const dbUri = await database()
  const adapter = { heartbeatInterval: 100, heartbeatTimeout: 1500 }
  const nodes = [await startNode(t, dbUri, { adapter })]
  const beats = await sqlListener(t, dbUri, 'socket.io#/')
  // One after the other, so that nobody answers the first, and the last answers nobody.
  for (const _ of [1, 2]) {
    nodes.push(await startNode(t, dbUri, { adapter }))
    await acquainted(nodes)
  }
  const from = beats.payloads.length
  const uids = () => beats.payloads.slice(from).map((text) => JSON.parse(text).uid)
  await until(() => nodes.every(({ io }) => uids().filter((uid) => uid === uidOf(io)).length >= 20))
  await acquainted(nodes)
})

const uidOf = (io: Node['io']) => (io.sockets.adapter as unknown as { uid: string }).uid

t.test('removes a node that was killed, and still collects acknowledgements', async (t) => {
  const dbUri = await database()
  const adapter = { heartbeatInterval: 200, heartbeatTimeout: 600 }
  const nodes = await startNodes(t, dbUri, 2, { adapter })
  const child = fork(join(root, 'test/support/socket-io-node.js'), {
    env: { ...process.env, DB_URI: dbUri, OPTIONS: JSON.stringify(adapter) },
    execArgv: []
  })
  t.teardown(() => child.kill('SIGKILL'))
  const [{ port }] = (await once(child, 'message')) as [{ port: number }]
  await acquainted(nodes, '/', 3)
  const clients = await Promise.all([...nodes, { port }].map((node) => open(t, node)))
  for (const { socket } of clients) socket.on('question', (answer) => answer('yes'))
  const { io } = nodes[0]!
  // On a busy machine, a node may be counted out and come back.
  const answered = async () => (await io.timeout(30_000).emitWithAck('question')).length
  await until(async () => (await answered()) === 3)
  child.kill('SIGKILL')
  await acquainted(nodes, '/', 2)
  await until(async () => (await answered()) === 2)
  await until(async () => (await io.fetchSockets()).length === 2)
})

t.test(
  'while the database restarts, local clients receive packets at once, and other nodes later, in order',
  async (t) => {
    const server = await testPostgres(t)
    const dbUri = await createDatabase(server)
    const nodes = await startNodes(t, dbUri, 3, { adapter: { heartbeatInterval: 300 } })
    const gaps: number[] = []
    nodes[1]!.io.sockets.adapter.on('gap', (gap: number) => gaps.push(gap))
    const clients = await Promise.all(nodes.map((node) => open(t, node)))
    await server.stop()
    const { io } = nodes[0]!
    for (let i = 0; i < 20; i++) io.emit('while away', i, i % 5 === 0 ? 'x'.repeat(9000) : '')
    await clients[0]!.received('while away', 20)
    t.same(clients[1]!.values('while away'), [], 'the others wait for the database')
    io.volatile.emit('volatile')
    await restartPostgres(t, server)
    for (const client of clients) {
      t.same(
        await client.received('while away', 20),
        Array.from({ length: 20 }, (_, i) => i)
      )
    }
    await until(() => gaps.length > 0)
    t.ok(
      failuresOf([nodes[1]!]).some(({ message }) => /may be lost/.test(message)),
      'the error handler is called'
    )
    await acquainted(nodes)
    io.emit('back')
    for (const client of clients) await client.received('back', 1)
    t.notOk(failuresOf(nodes).some(({ message }) => /was not sent/.test(message)))
  }
)

t.test('reconnects when the listening connection is lost, and reports the gap', async (t) => {
  const { dbUri, nodes, clients, io } = await three(t, { adapter: { heartbeatInterval: 300 } })
  let gaps = 0
  for (const node of nodes) node.io.sockets.adapter.on('gap', () => gaps++)
  await query(
    dbUri,
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%socket.io listener' and datname = current_database()"
  )
  await until(() => gaps === 3)
  io.emit('back')
  for (const client of clients) await client.received('back', 1)
})

t.test('reports packets that cannot be published', async (t) => {
  const { dbUri, nodes, clients, io } = await three(t)
  const circular: { self?: unknown } = {}
  circular.self = circular
  t.throws(() => io.emit('circular', circular))
  t.match(nodes[0]!.failures[0], { code: 'FST_PGWS_SOCKET_IO_NOT_PUBLISHED' })
  await query(dbUri, 'drop table socket_io_attachments')
  io.emit('large', 'x'.repeat(9000))
  io.emit('small')
  await clients[0]!.received('large', 1)
  for (const client of clients) await client.received('small', 1)
  await until(() => nodes[0]!.failures.length === 2)
  t.match(nodes[0]!.failures[1], { message: /socket_io_attachments/ })
  t.same(clients[1]!.values('large'), [])
})

t.test('without an error handler, failures are process warnings', async (t) => {
  const { dbUri, io, clients } = await three(t, { adapter: { errorHandler: undefined } })
  const warnings: Error[] = []
  const keep = (warning: Error) => warnings.push(warning)
  process.on('warning', keep)
  t.teardown(() => process.off('warning', keep))
  await query(dbUri, 'drop table socket_io_attachments')
  io.emit('large', 'x'.repeat(9000))
  await clients[0]!.received('large', 1)
  await until(() => warnings.some(({ message }) => /was not sent.*socket_io_attachments/.test(message)))
})

t.test('reports packets that cannot be read, and delivers later ones', async (t) => {
  const { dbUri, nodes, clients } = await three(t)
  await query(
    dbUri,
    `select pg_notify('socket.io#/', '{"uid":"gone","nsp":"/","type":3,"attachmentId":"4711"}'), pg_notify('socket.io#/', 'nonsense')`
  )
  nodes[0]!.io.emit('next')
  for (const client of clients) await client.received('next', 1)
  for (const { failures } of nodes) {
    // The node that emits delivers to its own clients at once.
    await until(() => failures.length >= 2)
    t.equal(failures.length, 2)
    t.ok(failures.every((error) => /was lost/.test(error.message)))
  }
})

t.test('closing leaves nothing behind, even if the pool has ended before', async (t) => {
  const dbUri = await database()
  for (const order of ['io first', 'pool first']) {
    const child = fork(join(root, 'test/support/socket-io-node.js'), {
      env: { ...process.env, DB_URI: dbUri, OPTIONS: '{}' },
      execArgv: []
    })
    t.teardown(() => child.kill('SIGKILL'))
    await once(child, 'message')
    const exited = once(child, 'exit')
    child.send(order)
    t.same(await exited, [0, null], order)
  }
})
