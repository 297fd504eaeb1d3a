import { once } from 'node:events'
import t from 'tap'
import { build, open, token, withPostgres } from '../support/helper.js'

// That each is pinged every 30 seconds, test/lib/clients/registry.test.ts shows.
t.test('row 26: the server pings', async (t) => {
  const { database } = await withPostgres(t)
  const { ws } = await build(t, { dbUri: await database() })
  const client = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  await once(client.webSocket, 'ping')
  t.equal(client.webSocket.readyState, 1)
})
