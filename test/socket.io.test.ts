import t from 'tap'
import { until, withPostgres } from './helper.js'
import { open, startNodes } from './socket-io.js'

const { database } = await withPostgres(t)

t.test('broadcasts reach the clients of all nodes', async (t) => {
  const nodes = await startNodes(t, await database(), 3)
  const clients = await Promise.all(nodes.map((node) => open(t, node)))
  nodes[0]!.io.emit('hello', 'world', 1, { a: [null] })
  for (const client of clients) {
    await client.received('hello', 1)
    t.same(client.events, [['hello', 'world', 1, { a: [null] }]])
  }
  t.same(
    nodes.flatMap(({ failures }) => failures),
    []
  )
  await until(() => true)
})
