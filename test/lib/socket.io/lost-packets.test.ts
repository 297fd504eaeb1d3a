import { join } from 'node:path'
import { encode } from '@msgpack/msgpack'
import pg from 'pg'
import t from 'tap'
import { FaultProxy } from '../../support/fault-proxy.js'
import { query, until, withPostgres } from '../../support/helper.js'
import { insertAndNotify, lost, open, startNode, startNodes } from '../../support/socket-io.js'

const { postgres, database } = await withPostgres(t)

/** Values for rows that are not messages of a node. */
const BROKEN: Uint8Array[] = [
  Buffer.from('no msgpack'),
  // It ends too early; it is a map of four thousand million entries; its type does not exist.
  Buffer.from([0x82, 0xa3]),
  Buffer.from([0xdf, 0xff, 0xff, 0xff, 0xff]),
  Buffer.from([0xc1]),
  Buffer.alloc(0),
  encode(null),
  encode(5),
  encode('text'),
  encode([1, 2]),
  encode({}),
  encode({ uid: 'stranger', nsp: '/', type: 'x' }),
  // They are messages, but what they ask for does not exist.
  encode({ uid: 'stranger', nsp: '/', type: 3 }),
  encode({ uid: 'stranger', nsp: '/', type: 3, data: {} }),
  encode({ uid: 'stranger', nsp: '/', type: 3, data: { packet: 5, opts: { rooms: 5, except: null } } }),
  encode({ uid: 'stranger', nsp: '/', type: 9, data: { packet: 5 } }),
  encode({ uid: 'stranger', nsp: '/', type: 7, data: null })
]

t.test('reports a row without a message, and delivers later packets', async (t) => {
  const dbUri = await database()
  const nodes = await startNodes(t, dbUri, 2)
  const clients = await Promise.all(nodes.map((node) => open(t, node)))
  for (const payload of BROKEN) await insertAndNotify(dbUri, payload)
  nodes[0]!.io.emit('large', 'x'.repeat(9000))
  nodes[0]!.io.emit('next')
  for (const client of clients) {
    await client.received('large', 1)
    await client.received('next', 1)
  }
  // The sender's own clients get a packet before it comes back from the database.
  for (const { failures } of nodes) await until(() => failures.length >= BROKEN.length)
  for (const { failures } of nodes) t.equal(failures.length, BROKEN.length, String(failures))
  t.ok(lost(nodes[0]!) >= 11)
})

t.test('references to impossible rows do not affect other rows', async (t) => {
  const dbUri = await database()
  const nodes = await startNodes(t, dbUri, 2)
  const clients = await Promise.all(nodes.map((node) => open(t, node)))
  const ids = [
    '"abc"',
    '1.5',
    '-1',
    '"9223372036854775808"',
    '1e300',
    '{}',
    '[]',
    'true',
    '""',
    '9223372036854775807'
  ]
  const notify = ids.map(
    (id) => `pg_notify('socket.io#/', '{"uid":"stranger","nsp":"/","type":3,"attachmentId":${id}}')`
  )
  // In one turn of the event loop, so that they are read together.
  await query(
    dbUri,
    `with row as (insert into socket_io_attachments (payload) values ($1) returning id)
     select ${notify}, pg_notify('socket.io#/', json_build_object('uid', 'stranger', 'nsp', '/', 'type', 3, 'attachmentId', id::text)::text)
     from row`,
    [
      encode({
        uid: 'stranger',
        nsp: '/',
        type: 3,
        data: { packet: { type: 2, data: ['good'] }, opts: { rooms: [], except: [] } }
      })
    ]
  )
  for (const client of clients) await client.received('good', 1)
  for (const node of nodes) t.equal(lost(node), ids.length, String(node.failures))
})

t.test('invalid heartbeats of other nodes stop neither the node nor the cleanup', async (t) => {
  const dbUri = await database()
  const adapter = { cleanupInterval: 100, heartbeatInterval: 100, heartbeatTimeout: 60_000 }
  // Two nodes, because nodes that know each other listen.
  const [node] = await startNodes(t, dbUri, 2, { adapter })
  const marks = [
    'no json',
    'null',
    '5',
    '{}',
    '{"uid":5}',
    '{"uid":"x","at":"y","read":null}',
    '{"uid":"x","at":5,"read":"z"}'
  ]
  for (const mark of marks) await query(dbUri, 'select pg_notify($1, $2)', ['socket.io#', mark])
  await until(() => lost(node!) === marks.length)
  await query(
    dbUri,
    "insert into socket_io_attachments (created_at, payload) values (now() - interval '1 hour', '')"
  )
  await until(async () => {
    const { rows } = await query(dbUri, 'select count(*)::int as n from socket_io_attachments')
    return rows[0].n === 0
  })
  t.equal(node!.failures.length, marks.length)
})

t.test('a stored packet without a message is a gap, and does not end the replay', async (t) => {
  const dbUri = await database()
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const options = {
    server: { connectionStateRecovery: { maxDisconnectionDuration: 60_000 } },
    adapter: { heartbeatInterval: 300 }
  }
  const [node] = await startNodes(t, dbUri, 1, options)
  const cut = await startNode(t, dbUri, { ...options, poolUri: proxy.uri(dbUri) })
  await until(async () => (await cut.io.sockets.adapter.serverCount()) === 2)
  const client = await open(t, cut)
  let gaps = 0
  cut.io.sockets.adapter.on('gap', () => gaps++)
  node!.io.emit('n', 0)
  await client.received('n', 1)
  proxy.mode = 'refuse'
  proxy.cut()
  await until(() => cut.failures.length > 0)
  node!.io.emit('n', 1)
  await until(async () => {
    const { rows } = await query(dbUri, 'select count(*)::int as n from socket_io_attachments_packets')
    return rows[0].n >= 2
  })
  for (const [seq, body] of ['no json', 'null', '[]', '{"type":"x"}'].entries()) {
    await query(
      dbUri,
      `insert into socket_io_attachments_packets (nsp, origin, seq, rooms, excluded, body) values ('/', 'stranger', $1, '{}', '{}', $2)`,
      [seq, body]
    )
  }
  await query(
    dbUri,
    `insert into socket_io_attachments_packets (nsp, origin, seq, rooms, excluded, attachment) values ('/', 'stranger', 9, '{}', '{}', 'no msgpack')`
  )
  node!.io.emit('n', 2)
  proxy.mode = 'pass'
  t.same(await client.received('n', 3), [0, 1, 2])
  await until(() => gaps === 1)
  t.equal(lost(cut), 5)
  node!.io.emit('n', 3)
  t.same(await client.received('n', 4), [0, 1, 2, 3])
})

t.test('a namespace whose listener is lost before it knows where it begins reports a gap', async (t) => {
  const dbUri = await database()
  const server = { connectionStateRecovery: { maxDisconnectionDuration: 60_000 } }
  const [node] = await startNodes(t, dbUri, 1, { server })
  const blocker = new pg.Client(dbUri)
  await blocker.connect()
  t.teardown(() => blocker.end())
  const waiting = async () => {
    const { rows } = await query(
      dbUri,
      `select count(*)::int as n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
    )
    return rows[0].n
  }
  // The new namespace listens, but cannot read where it begins.
  await blocker.query('begin; lock table socket_io_attachments_packets')
  const gaps: number[] = []
  node!.io.of('/new').adapter.on('gap', (time) => gaps.push(time))
  await until(async () => (await waiting()) === 1)
  await query(
    dbUri,
    `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query ilike 'listen%'`
  )
  // The replay waits for the table, too.
  await until(async () => (await waiting()) === 2)
  await blocker.query('commit')
  await until(() => gaps.length === 1)
  const client = await open(t, node!, '/new')
  node!.io.of('/new').emit('next')
  await client.received('next', 1)
})

t.test('reports packets that are not events for clients, and disconnects nobody', async (t) => {
  const dbUri = await database()
  const [node, other] = await startNodes(t, dbUri, 2)
  const client = await open(t, node!)
  const left: string[] = []
  client.socket.on('disconnect', (reason) => left.push(reason))
  const broken = [
    // Packets of Socket.IO's protocol that a server never broadcasts.
    ...[0, 1, 3, 4, 5, 6, 7, -1, '2', null].map((type) => ({ type, data: ['n', 1] })),
    { type: 0, data: { sid: 'another' } },
    ...['connect', 'disconnect', 'newListener', null, {}, []].map((name) => ({ type: 2, data: [name] })),
    ...[5, 'text', {}, null, []].map((data) => ({ type: 2, data })),
    ...['1', -1, 0.5, '[["a"]]', {}].map((id) => ({ type: 2, id, data: ['n', 1] }))
  ]
  for (const packet of broken) {
    const message = { uid: 'stranger', nsp: '/', type: 3, data: { packet, opts: { rooms: [], except: [] } } }
    await query(dbUri, 'select pg_notify($1, $2)', ['socket.io#/', JSON.stringify(message)])
  }
  // From the other node, so that it comes after them.
  other!.io.emit('next')
  await client.received('next', 1)
  t.same(client.events, [['next']])
  t.same(left, [])
  t.equal(node!.failures.length, broken.length, String(node!.failures))
})
