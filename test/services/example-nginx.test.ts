import t from 'tap'
import WebSocket from 'ws'
import { startExample } from '../support/example.js'
import { until } from '../support/helper.js'
import { SDKS, subscribed } from '../support/sdk.js'
import { end } from '../support/streams.js'

t.test(
  'the example "nginx": clients of all nodes receive a message, also after a node was killed',
  async (t) => {
    const example = await startExample(t, 'nginx')
    const [address] = example.addresses()
    const nodes = /nodes ([\d, ]+)/.exec(example.output())![1]!.split(', ').map(Number)
    const answer = () => fetch(`${address}/token`).catch(() => undefined)
    await until(async () => (await answer())?.status === 200)
    const answered = new Set<number>()
    for (const _ of nodes) answered.add(Number((await answer())!.headers.get('x-node')))
    t.same([...answered].sort(), [...nodes].sort(), 'each node answers in turn')
    const page = await (await fetch(address!)).text()
    for (const [, script] of page.matchAll(/src="([^"]+)"/g)) {
      t.equal((await fetch(`${address}/${script}`)).status, 200, script!)
    }

    const clients = nodes.map(() => {
      const client = new SDKS['5.8']!(`${address!.replace('http', 'ws')}/connection/websocket`, {
        websocket: WebSocket,
        minReconnectDelay: 50,
        getToken: async () => (await answer())!.text()
      } as never)
      t.teardown(() => end(client))
      const { subscription, got } = subscribed(client, 'chat')
      client.connect()
      return { client, subscription, got }
    })
    for (const { subscription } of clients) await subscription.ready()
    await clients[0]!.subscription.publish('to all')
    await until(() => clients.every(({ got }) => got.length === 1))

    process.kill(nodes[0]!, 'SIGKILL')
    await until(async () => (await fetch(`${address}/health`)).status === 200)
    for (const _ of nodes) t.not(Number((await answer())!.headers.get('x-node')), nodes[0])
    for (const { client } of clients) await client.ready()
    await until(async () => {
      await clients[1]!.subscription.ready()
      await clients[1]!.subscription.publish('still to all').catch(() => {})
      return clients.every(({ got }) => got.length > 1)
    })
    for (const { client } of clients) client.disconnect()
    await example.stop()
  }
)
