import pg from 'pg'
import t from 'tap'
import WebSocket from 'ws'
import { startExample } from '../support/example.js'
import { until } from '../support/helper.js'
import { SDKS } from '../support/sdk.js'
import { end } from '../support/streams.js'

t.test(
  'the example "orders": changes over HTTP and in SQL arrive in the order of their commits',
  async (t) => {
    const example = await startExample(t, 'orders')
    const [address] = example.addresses()
    const page = await (await fetch(address!)).text()
    for (const [, script] of page.matchAll(/src="([^"]+)"/g)) {
      t.equal((await fetch(`${address}/${script}`)).status, 200, script!)
    }

    const send = async (method: string, path: string, body: object) => {
      const headers = { 'content-type': 'application/json' }
      return (await fetch(address + path, { method, headers, body: JSON.stringify(body) })).status
    }
    const token = await (await fetch(`${address}/token`)).text()
    const client = new SDKS['5.8']!(`${address!.replace('http', 'ws')}/connection/websocket`, {
      websocket: WebSocket,
      token
    } as never)
    t.teardown(() => end(client))
    const changes: { operation: string; record: unknown }[] = []
    const subscription = client.newSubscription('orders')
    subscription.on('publication', ({ data }) => changes.push(data))
    subscription.subscribe()
    client.connect()
    await subscription.ready()

    t.equal(await send('POST', '/orders', { item: 'tea' }), 201)
    t.equal(await send('PATCH', '/orders/1', { state: 'paid' }), 204)
    t.equal(await send('PATCH', '/orders/1', { state: 'eaten' }), 400)
    t.equal(await send('PATCH', '/orders/9', { state: 'paid' }), 404)
    const [, dbUri] = /psql '([^']+)'/.exec(example.output())!
    const sql = new pg.Client({ connectionString: dbUri })
    await sql.connect()
    await sql.query("update orders set state = 'shipped'")
    t.same(await (await fetch(`${address}/orders`)).json(), [{ id: 1, item: 'tea', state: 'shipped' }])
    await sql.query('delete from orders')
    await sql.end()
    await until(() => changes.length === 4)
    t.same(
      changes.map(({ operation }) => operation),
      ['INSERT', 'UPDATE', 'UPDATE', 'DELETE']
    )
    t.match(changes[2], { record: { id: 1, item: 'tea', state: 'shipped' } })
    await t.rejects(subscription.publish({ operation: 'DELETE' }), { code: 103 }, 'visitors can only read')
    await example.stop()
  }
)
