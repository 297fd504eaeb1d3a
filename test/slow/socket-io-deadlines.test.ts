import { join } from 'node:path'
import t from 'tap'
import { FaultProxy } from '../support/fault-proxy.js'
import { query, sqlListener, until, withPostgres } from '../support/helper.js'
import { acquainted, insertAndNotify, lost, open, startNode, startNodes } from '../support/socket-io.js'

const { postgres, database } = await withPostgres(t)

t.test('gives up packets when the table cannot be read or the pool is unavailable', async (t) => {
  const dbUri = await database()
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const [node] = await startNodes(t, dbUri, 1)
  const other = await startNode(t, dbUri, { poolUri: proxy.uri(dbUri) })
  await until(async () => (await other.io.sockets.adapter.serverCount()) === 2)
  const client = await open(t, other)
  await query(dbUri, 'alter table socket_io_attachments rename column payload to hidden')
  await insertAndNotify(dbUri, Buffer.from('no msgpack')).catch(() => {})
  await query(
    dbUri,
    `select pg_notify('socket.io#/', '{"uid":"stranger","nsp":"/","type":3,"attachmentId":"' || n || '"}') from generate_series(1, 50) n`
  )
  node!.io.emit('next', 1)
  await client.received('next', 1)
  t.equal(lost(other), 50)
  await query(dbUri, 'alter table socket_io_attachments rename column hidden to payload')

  // Its listener is connected. Its pool is not.
  const connect = other.pool.connect
  other.pool.connect = (() => Promise.reject(new Error('no connection'))) as never
  node!.io.emit('large', 'x'.repeat(9000))
  node!.io.emit('next', 2)
  await client.received('next', 2)
  t.equal(lost(other), 51)
  other.pool.connect = connect
  node!.io.emit('large', 'y'.repeat(9000))
  t.same(await client.received('large', 1), ['y'.repeat(9000)])
})

t.test('keeps rows until every node has read them, and then removes them', async (t) => {
  const dbUri = await database()
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const adapter = { cleanupInterval: 200, heartbeatInterval: 200, heartbeatTimeout: 600_000 }
  const nodes = await startNodes(t, dbUri, 2, { adapter })
  // This node is notified of rows, and cannot read them for a while.
  const slow = await startNode(t, dbUri, { adapter, poolUri: proxy.uri(dbUri) })
  await acquainted([...nodes, slow])
  const client = await open(t, slow)
  const rows = async () =>
    (await query(dbUri, 'select count(*)::int as n from socket_io_attachments')).rows[0].n
  const marks = await sqlListener(t, dbUri, 'socket.io#')
  await until(() => {
    const seen = marks.payloads.map((text) => JSON.parse(text)).filter(({ read }) => read !== null)
    return new Set(seen.map(({ uid }) => uid)).size === 3
  })
  const read = slow.pool.connect
  slow.pool.connect = (() => Promise.reject(new Error('no connection'))) as never
  for (let i = 0; i < 5; i++) nodes[0]!.io.emit('large', i, 'x'.repeat(9000))
  await until(async () => (await rows()) === 5)
  // They are old enough. The row that is older than all of them is removed.
  const count = async (condition: string) =>
    (await query(dbUri, `select count(*)::int as n from socket_io_attachments where ${condition}`)).rows[0].n
  await until(async () => (await count("created_at < now() - interval '3 s'")) === 5)
  await query(dbUri, "insert into socket_io_attachments (created_at) values (now() - interval '1 hour')")
  await until(async () => (await count('payload is null')) === 0)
  t.equal(await rows(), 5)
  t.same(client.values('large'), [])
  slow.pool.connect = read
  t.same(await client.received('large', 5), [0, 1, 2, 3, 4])
  await until(async () => (await rows()) === 0)
})
