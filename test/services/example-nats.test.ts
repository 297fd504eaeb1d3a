import t from 'tap'
import WebSocket from 'ws'
import { startExample } from '../support/example.js'
import { until } from '../support/helper.js'
import { SDKS, subscribed } from '../support/sdk.js'
import { end } from '../support/streams.js'

t.test(
  'the example "nats": a message reaches the clients of all nodes, also while NATS is away',
  async (t) => {
    const example = await startExample(t, 'nats', { count: 3 })
    const addresses = example.addresses()
    for (const address of addresses) {
      const page = await (await fetch(address)).text()
      for (const [, script] of page.matchAll(/src="([^"]+)"/g)) {
        t.equal((await fetch(`${address}/${script}`)).status, 200, script!)
      }
    }
    const clients = addresses.map((address) => {
      const client = new SDKS['5.8']!(`${address.replace('http', 'ws')}/connection/websocket`, {
        websocket: WebSocket,
        getToken: async () => (await fetch(`${address}/token`)).text()
      } as never)
      t.teardown(() => end(client))
      const { subscription, got } = subscribed(client, 'chat')
      client.connect()
      return { client, subscription, got }
    })
    for (const { subscription } of clients) await subscription.ready()
    const sent: string[] = []
    const reachesAll = async (text: string) => {
      sent.push(text)
      await clients[sent.length % clients.length]!.subscription.publish(text)
      await until(() => clients.every(({ got }) => got.length === sent.length))
    }
    const status = async () => {
      const health = await fetch(`${addresses[0]}/health`)
      t.equal(health.status, 200)
      return ((await health.json()) as { bus: { name: string; status: string } }).bus
    }
    await until(async () => (await status()).status === 'up')
    t.equal((await status()).name, 'nats')
    await reachesAll('to all')

    const pids = () => [...example.output().matchAll(/nats-server has the process id (\d+)/g)]
    process.kill(Number(pids()[0]![1]), 'SIGKILL')
    await until(() => example.output().includes('nats-server is away'))
    await reachesAll('while NATS is away')
    await until(() => pids().length === 2)
    await until(async () => (await status()).status === 'up')
    await reachesAll('again')
    for (const { got } of clients) {
      t.same(
        got.map(({ data }) => data),
        sent
      )
    }
    for (const { client } of clients) client.disconnect()
    await example.stop()
  }
)
