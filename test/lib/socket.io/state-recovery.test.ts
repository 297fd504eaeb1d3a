import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Emitter } from '../../../emitter.js'
import { FaultProxy } from '../../support/fault-proxy.js'
import { query, until, withPostgres } from '../../support/helper.js'
import { createDatabase, restartPostgres, testPostgres } from '../../support/postgres.js'
import {
  type Client,
  knowsPositions,
  type Node,
  open,
  startNode,
  startNodes
} from '../../support/socket-io.js'

const { postgres, database } = await withPostgres(t)
const failuresOf = (nodes: Node[]) => nodes.flatMap(({ failures }) => failures)
const recovery = (more: object = {}) => ({
  server: { connectionStateRecovery: { maxDisconnectionDuration: 60_000, ...more } }
})

/** A proxy in front of the nodes. It leads a client to the node that is set, and can cut its connection. */
async function balancer(t: Test, first: Node) {
  const links = new Set<Socket>()
  const state = {
    target: first as Node | undefined,
    port: 0,
    cut() {
      for (const link of links) link.destroy()
    }
  }
  const server = createServer((client) => {
    client.on('error', () => {})
    if (state.target === undefined) {
      client.destroy()
      return
    }
    const upstream = connect(state.target.port, '127.0.0.1')
    upstream.on('error', () => {})
    links.add(client)
    client.pipe(upstream).pipe(client)
    client.on('close', () => {
      links.delete(client)
      upstream.destroy()
    })
    upstream.on('close', () => client.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  state.port = (server.address() as AddressInfo).port
  t.teardown(() => {
    state.cut()
    server.close()
  })
  return state
}

type Balancer = Awaited<ReturnType<typeof balancer>>

const reconnecting = { reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 50 }

/** Cuts the connection of a client. The client reconnects to a node on request. */
async function leave({ socket }: Client, balancer: Balancer, from: Node) {
  // A client that has disconnected has none, and the node may not have noticed yet.
  const id = socket.id!
  balancer.target = undefined
  balancer.cut()
  await until(() => socket.disconnected && !from.io.of('/').sockets.has(id))
}

async function comeBack({ socket }: Client, balancer: Balancer, to: Node): Promise<boolean> {
  balancer.target = to
  await until(() => socket.connected)
  return socket.recovered
}

t.test('a client that reconnects to another node recovers its state, and what it missed', async (t) => {
  const dbUri = await database()
  const nodes = await startNodes(t, dbUri, 3, recovery())
  const stored = async (name: string, n: number) =>
    (
      await query(dbUri, 'select from socket_io_attachments_packets where strpos(body, $1) > 0', [
        JSON.stringify([name, n]).slice(0, -1)
      ])
    ).rowCount
  const door = await balancer(t, nodes[0]!)
  const client = await open(t, door, '/', reconnecting)
  const id = client.socket.id!
  const socket = nodes[0]!.io.sockets.sockets.get(id)!
  socket.join('red')
  socket.data = { name: 'one', bytes: Buffer.from([1]), at: new Date(0) }
  nodes[1]!.io.emit('n', 0)
  await client.received('n', 1)
  let left = ''
  socket.on('disconnect', (reason) => {
    left = reason
  })
  await leave(client, door, nodes[0]!)
  t.equal(left, 'transport close')

  for (let n = 1; n <= 30; n++) {
    const node = nodes[n % 3]!
    node.io.emit('n', n, n % 5 === 0 ? 'x'.repeat(10_000) : Buffer.from([n]))
    node.io.to('red').emit('red', n)
    node.io.to('blue').emit('blue', n)
    node.io.except('red').emit('not red', n)
    node.io.volatile.emit('volatile', n)
    node.io.local.emit('local', n)
    // So that the database has the same order.
    await until(() => stored('not red', n))
  }
  socket.emit('n', 31)
  let connections = 0
  nodes[2]!.io.on('connection', (socket) => {
    if (socket.recovered) connections++
  })
  await until(() => stored('n', 31))
  t.equal(await comeBack(client, door, nodes[2]!), true)
  t.equal(client.socket.id, id)
  t.equal(connections, 1)
  const again = nodes[2]!.io.sockets.sockets.get(id)!
  t.equal(again.recovered, true)
  t.same(again.rooms, new Set([id, 'red']))
  t.equal(again.data.name, 'one')
  t.same(Buffer.from(again.data.bytes), Buffer.from([1]))
  nodes[1]!.io.emit('n', 32)
  t.same(
    await client.received('n', 33),
    Array.from({ length: 33 }, (_, n) => n)
  )
  t.same(
    client.values('red'),
    Array.from({ length: 30 }, (_, n) => n + 1)
  )
  for (const name of ['blue', 'not red', 'volatile', 'local']) t.same(client.values(name), [], name)

  // A session is used once, so nobody can take over the identity of a connected client.
  const { pid, offset } = credentials(client)
  const adapter = nodes[1]!.io.sockets.adapter
  t.equal(await adapter.restoreSession(pid, offset), null)
  t.same(failuresOf(nodes), [])
})

/** What a client sends to recover its state. */
function credentials({ socket }: Client) {
  const { _pid, _lastOffset } = socket as unknown as { _pid: string; _lastOffset: string }
  return { pid: _pid, offset: _lastOffset }
}

t.test('does not recover a session or offset that is unknown or too old', async (t) => {
  const dbUri = await database()
  const nodes = await startNodes(t, dbUri, 2, recovery({ maxDisconnectionDuration: 1000 }))
  const adapter = nodes[1]!.io.sockets.adapter
  const session = (pid: string) =>
    nodes[0]!.io.sockets.adapter.persistSession({ sid: 's', pid, rooms: ['s'], data: {} } as never)
  const client = await open(t, nodes[0]!)
  nodes[0]!.io.emit('first')
  nodes[0]!.io.emit('second')
  await client.received('second', 1)
  const offset = (client.events[0] as string[]).at(-1)!
  const count = async () => (await query(dbUri, 'select from socket_io_attachments_sessions')).rowCount

  session('a')
  t.match(await adapter.restoreSession('a', offset), { sid: 's', pid: 'a', rooms: ['s'] })
  t.equal(await adapter.restoreSession('a', offset), null, 'used')
  for (const wrong of [
    '',
    'x',
    'hello-world',
    offset.replace(/^........./, '00000000-'),
    offset.replace(/-.*/, '-zzzzz'),
    '-'
  ]) {
    session('b')
    await until(count)
    t.equal(await adapter.restoreSession('b', wrong), null, `offset ${wrong}`)
    await query(dbUri, 'delete from socket_io_attachments_sessions')
  }
  t.equal(await adapter.restoreSession('unknown', offset), null)
  t.equal(await adapter.restoreSession('nul\0', offset), null)
  session('c')
  await until(count)
  await query(dbUri, "update socket_io_attachments_sessions set disconnected_at = now() - interval '2 s'")
  t.equal(await adapter.restoreSession('c', offset), null, 'too old')
  // A packet that the client may have missed was deleted.
  await query(dbUri, 'delete from socket_io_attachments_packets')
  await query(
    dbUri,
    "update socket_io_attachments_recovery set position = 1000, at = now() where name = 'trimmed'"
  )
  session('d')
  t.equal(await adapter.restoreSession('d', offset), null, 'trimmed')
  // What was deleted is so old that the client has received it.
  await query(
    dbUri,
    "update socket_io_attachments_recovery set at = now() - interval '1 hour' where name = 'trimmed'"
  )
  session('e')
  t.ok(await adapter.restoreSession('e', offset), 'nothing was sent for a long time')
  t.same(failuresOf(nodes), [])
})

t.test('a notification with an invalid position does not affect clients that recover', async (t) => {
  const dbUri = await database()
  const [node] = await startNodes(t, dbUri, 2, recovery())
  const { adapter } = node!.io.sockets
  const client = await open(t, node!)
  for (const position of ['"9"', '0.5', '-1', '1e300', '{}', 'null']) {
    const header = `{"uid":"stranger","nsp":"/","type":3,"position":${position}}`
    await query(dbUri, 'select pg_notify($1, $2)', ['socket.io#/', header])
  }
  await query(dbUri, `select pg_notify('socket.io#/', '{"nsp":"/","type":3}')`)
  await until(() => node!.failures.length === 7)
  t.ok(node!.failures.every((error) => /A packet from another Socket.IO server was lost/.test(error.message)))
  node!.io.emit('first')
  await client.received('first', 1)
  const offset = (client.events[0] as string[]).at(-1)!
  adapter.persistSession({ sid: 's', pid: 'a', rooms: ['s'], data: {} } as never)
  t.match(await adapter.restoreSession('a', offset), { sid: 's', pid: 'a' })
})

t.test('removes old packets and sessions', async (t) => {
  const dbUri = await database()
  const [node] = await startNodes(t, dbUri, 2, { ...recovery(), adapter: { cleanupInterval: 100 } })
  const rows = async (table: string) =>
    (await query(dbUri, `select from socket_io_attachments_${table}`)).rowCount
  node!.io.emit('a')
  node!.io.emit('b')
  node!.io.sockets.adapter.persistSession({ sid: 's', pid: 'p', rooms: [], data: 1 } as never)
  await until(async () => (await rows('packets')) === 2 && (await rows('sessions')) === 1)
  await query(
    dbUri,
    "update socket_io_attachments_packets set created_at = now() - interval '1 hour' where position = 1"
  )
  await query(dbUri, "update socket_io_attachments_sessions set disconnected_at = now() - interval '1 hour'")
  await until(async () => (await rows('packets')) === 1 && (await rows('sessions')) === 0)
  const { rows: trimmed } = await query(
    dbUri,
    "select position::int from socket_io_attachments_recovery where name = 'trimmed'"
  )
  t.equal(trimmed[0].position, 1)
})

t.test('a packet that is sent between reading the table and the connection arrives once', async (t) => {
  const nodes = await startNodes(t, await database(), 2, {
    server: { connectionStateRecovery: { maxDisconnectionDuration: 60_000, skipMiddlewares: false } }
  })
  const door = await balancer(t, nodes[0]!)
  const client = await open(t, door, '/', reconnecting)
  nodes[0]!.io.emit('n', 0)
  await client.received('n', 1)
  let sent = 1
  const both = () => {
    for (const { io } of nodes) io.emit('n', sent++)
  }
  let entered = 0
  nodes[1]!.io.use(async (socket, next) => {
    entered++
    t.ok(socket.recovered)
    socket.join('late')
    for (let i = 0; i < 5; i++) {
      both()
      nodes[0]!.io.to('late').emit('late', i)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    next()
  })
  await leave(client, door, nodes[0]!)
  const timer = setInterval(both, 1)
  t.equal(await comeBack(client, door, nodes[1]!), true)
  clearInterval(timer)
  both()
  const got = await client.received('n', sent)
  t.equal(entered, 1)
  t.same(
    [...got].sort((a, b) => (a as number) - (b as number)),
    Array.from({ length: sent }, (_, n) => n)
  )
  t.same(await client.received('late', 5), [0, 1, 2, 3, 4])
})

t.test('a client that leaves before it is admitted can reconnect', async (t) => {
  const nodes = await startNodes(t, await database(), 2, {
    server: { connectionStateRecovery: { maxDisconnectionDuration: 60_000, skipMiddlewares: false } }
  })
  const door = await balancer(t, nodes[0]!)
  const client = await open(t, door, '/', reconnecting)
  nodes[0]!.io.emit('n', 0)
  await client.received('n', 1)
  let tries = 0
  nodes[1]!.io.use((_socket, next) => {
    if (++tries > 1) return next()
    door.cut()
    setTimeout(next, 50)
  })
  await leave(client, door, nodes[0]!)
  nodes[0]!.io.emit('n', 1)
  t.equal(await comeBack(client, door, nodes[1]!), true)
  t.equal(tries, 2)
  t.same(await client.received('n', 2), [0, 1])
})

t.test('clients that move between nodes under load receive everything once and in order', async (t) => {
  const nodes = await startNodes(t, await database(), 3, recovery())
  const COUNT = 250
  const doors = await Promise.all(Array.from({ length: 4 }, (_, i) => balancer(t, nodes[i % 3]!)))
  const clients = await Promise.all(doors.map((door) => open(t, door, '/', reconnecting)))
  let unrecovered = 0
  for (const { socket } of clients) {
    socket.on('connect', () => {
      if (!socket.recovered) unrecovered++
    })
  }
  for (const { io } of nodes) io.emit('start')
  for (const client of clients) await client.received('start', 3)
  let over = false
  const wandering = doors.map(async (door, i) => {
    for (let at = i; !over; at++) {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 200))
      door.target = nodes[at % 3]!
      door.cut()
      await until(() => clients[i]!.socket.connected)
    }
  })
  const sending = nodes.map(async ({ io }, node) => {
    for (let n = 0; n < COUNT; n++) {
      io.emit('n', `${node} ${n}`, Math.random() < 0.1 ? 'x'.repeat(9000) : '')
      if (Math.random() < 0.5) await new Promise((resolve) => setTimeout(resolve, Math.random() * 20))
    }
  })
  await Promise.all(sending)
  over = true
  await Promise.all(wandering)
  for (const [i, client] of clients.entries()) {
    await until(() => client.socket.connected)
    const got = (await client.received('n', 3 * COUNT)) as string[]
    for (const node of [0, 1, 2]) {
      t.same(
        got.filter((text) => text.startsWith(`${node} `)),
        Array.from({ length: COUNT }, (_, n) => `${node} ${n}`),
        `client ${i}, node ${node}`
      )
    }
  }
  t.equal(unrecovered, 0)
  t.same(failuresOf(nodes), [])
})

t.test('replays what a node missed while its listener was disconnected, and reports no gap', async (t) => {
  const dbUri = await database()
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const adapter = { heartbeatInterval: 300 }
  const [node] = await startNodes(t, dbUri, 1, { ...recovery(), adapter })
  const cut = await startNode(t, dbUri, { ...recovery(), adapter, poolUri: proxy.uri(dbUri) })
  const nodes = [node!, cut]
  await until(async () => (await cut.io.sockets.adapter.serverCount()) === 2)
  await knowsPositions(cut)
  let gaps = 0
  cut.io.sockets.adapter.on('gap', () => gaps++)
  const clients = await Promise.all(nodes.map((node) => open(t, node)))
  proxy.mode = 'refuse'
  proxy.cut()
  await until(() => cut.failures.length > 0)
  const { io } = node!
  for (let n = 0; n < 50; n++) io.emit('n', n, n % 7 === 0 ? 'x'.repeat(9000) : '')
  io.in(clients[1]!.socket.id!).socketsJoin('red')
  await clients[0]!.received('n', 50)
  cut.io.emit('own', 1)
  await clients[1]!.received('own', 1)
  proxy.mode = 'pass'
  t.same(
    await clients[1]!.received('n', 50),
    Array.from({ length: 50 }, (_, n) => n)
  )
  await until(() => cut.io.sockets.adapter.rooms.has('red'))
  await clients[0]!.received('own', 1)
  io.emit('n', 50)
  await clients[1]!.received('n', 51)
  t.same(clients[1]!.values('own'), [1])
  t.equal(gaps, 0)
  t.notOk(failuresOf(nodes).some(({ message }) => /may be lost|was not sent/.test(message)))
})

t.test('clients that move while the database is unavailable receive everything once', async (t) => {
  const server = await testPostgres(t)
  const dbUri = await createDatabase(server)
  const nodes = await startNodes(t, dbUri, 2, { ...recovery(), adapter: { heartbeatInterval: 300 } })
  const door = await balancer(t, nodes[0]!)
  const client = await open(t, door, '/', reconnecting)
  const other = await open(t, nodes[1]!)
  nodes[0]!.io.emit('n', 'start')
  await client.received('n', 1)
  await server.stop()
  for (const [i, { io }] of nodes.entries()) for (let n = 0; n < 10; n++) io.emit('n', `${i} ${n}`)
  await client.received('n', 11)
  t.same(
    client.values('n').slice(1),
    Array.from({ length: 10 }, (_, n) => `0 ${n}`),
    'at once'
  )
  await leave(client, door, nodes[0]!)
  await restartPostgres(t, server)
  // Its session is stored with a position after what it has received.
  await other.received('n', 21)
  await until(async () => (await query(dbUri, 'select from socket_io_attachments_sessions')).rowCount)
  t.equal(await comeBack(client, door, nodes[1]!), true)
  nodes[0]!.io.emit('n', 'end')
  await until(() => client.values('n').includes('end'))
  const all = ['start', ...[0, 1].flatMap((i) => Array.from({ length: 10 }, (_, n) => `${i} ${n}`)), 'end']
  t.same([...client.values('n')].sort(), all.sort())
  t.same([...other.values('n')].sort(), all.sort())
})

t.test('recovers what the emitter sent, too', async (t) => {
  const nodes = await startNodes(t, await database(), 2, recovery())
  const door = await balancer(t, nodes[0]!)
  const client = await open(t, door, '/', reconnecting)
  const emitter = new Emitter(nodes[0]!.pool)
  emitter.emit('n', 0)
  await client.received('n', 1)
  await leave(client, door, nodes[0]!)
  emitter.emit('n', 1)
  emitter.to(client.socket.id ?? 'x').emit('n', 'none')
  emitter.emit('n', 2, 'x'.repeat(9000))
  await emitter.flushed()
  t.equal(await comeBack(client, door, nodes[1]!), true)
  emitter.emit('n', 3)
  t.same(await client.received('n', 4), [0, 1, 2, 3])
  t.same(failuresOf(nodes), [])
})

t.test('nodes that start together create the tables once', async (t) => {
  const dbUri = await database()
  const nodes = await Promise.all(Array.from({ length: 6 }, () => startNode(t, dbUri, recovery())))
  await until(async () => (await nodes[0]!.io.sockets.adapter.serverCount()) === 6)
  t.same(failuresOf(nodes), [])
})
