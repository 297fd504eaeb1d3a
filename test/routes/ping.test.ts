import { once } from 'node:events'
import t from 'tap'
import { build, open, token, withPostgres } from '../helper.js'

t.test('row 26: the server pings every 30 seconds', async (t) => {
  const { database } = await withPostgres(t)
  const { ws } = await build(t, { dbUri: await database() })
  const client = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  const opened = Date.now()
  await once(client.webSocket, 'ping')
  const waited = Date.now() - opened
  t.ok(waited > 20_000 && waited < 31_000, `${waited} ms`)
})
