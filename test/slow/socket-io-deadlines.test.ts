import { join } from 'node:path'
import t from 'tap'
import { FaultProxy } from '../support/fault-proxy.js'
import { query, until, withPostgres } from '../support/helper.js'
import { insertAndNotify, lost, open, startNode, startNodes } from '../support/socket-io.js'

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
