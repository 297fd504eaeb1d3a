import { fork } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, createConnection, createServer } from 'node:net'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { until } from '../support/helper.js'
import { NatsServer, natsCluster } from '../support/nats.js'
import { announcement, busOf } from '../support/nats-bus.js'
import { root } from '../support/root.js'

t.test('after the server was killed, the bus rejoins its channels, and sends nothing old', async (t) => {
  const server = await NatsServer.start(t)
  const { bus, count, texts, received } = await busOf(t, server)
  await bus.join('a')
  await server.kill()
  await until(() => count('interrupted') === 1)
  t.notOk(bus.up)
  const unavailable = { code: 'FST_PGWS_NODES_UNAVAILABLE', message: /^(?!.*127\.0\.0\.1)/ }
  await t.rejects(bus.announce([announcement('a', 1, 'lost')]), unavailable)
  await t.rejects(bus.send('all', ['lost']), unavailable)
  await bus.join('b')
  bus.leave('never joined')
  await server.start()
  await until(() => count('restored') === 1)
  t.ok(bus.up)
  await bus.announce([announcement('a', 1, 'to a'), announcement('b', 2, 'to b')])
  await bus.send('all', ['told'])
  await until(() => received().length === 1)
  t.same(texts(), ['to a', 'to b'])
  t.same(received(), ['told'])
  t.equal(count('interrupted'), 1)
})

t.test('an announcement that the server does not confirm is rejected', async (t) => {
  const server = await NatsServer.start(t)
  const { bus, count, texts } = await busOf(t, server)
  await bus.join('a')
  await server.pause()
  const [announced, joined] = [bus.announce([announcement('a', 1)]), bus.join('b')]
  await t.rejects(announced, { code: 'FST_PGWS_NODES_UNAVAILABLE' })
  await joined
  t.equal(count('interrupted'), 1)
  await t.rejects(bus.announce([announcement('a', 1)]), { code: 'FST_PGWS_NODES_UNAVAILABLE' })
  server.continue()
  await until(() => count('restored') === 1)
  await bus.announce([announcement('a', 1), announcement('b', 2)])
  await until(() => texts().length === 2)
  t.same(texts(), ['text 1', 'text 2'])
})

/** A line before a server that takes so many bytes a second from its clients. */
async function slowLine(t: Test, server: NatsServer, rate: number): Promise<{ url: string }> {
  const line = createServer((client) => {
    const upstream = createConnection(server.port, '127.0.0.1')
    for (const socket of [client, upstream]) socket.on('error', () => {})
    client.on('data', (chunk) => {
      client.pause()
      upstream.write(chunk)
      setTimeout(() => client.resume(), (chunk.length / rate) * 1000)
    })
    upstream.pipe(client)
    client.on('close', () => upstream.destroy())
  })
  line.listen(0, '127.0.0.1')
  await once(line, 'listening')
  t.teardown(() => line.close())
  return { url: `nats://127.0.0.1:${(line.address() as AddressInfo).port}` }
}

t.test('a slow line is not taken for a dead one', async (t) => {
  const server = await NatsServer.start(t)
  const reader = await busOf(t, server)
  await reader.bus.join('a')
  const { bus, count } = await busOf(t, await slowLine(t, server, 4 * 1024 * 1024))
  // It takes more than the time that a server may take to confirm.
  const text = 'x'.repeat(100_000)
  await bus.announce(Array.from({ length: 160 }, (_, index) => announcement('a', index + 1, text)))
  await until(() => reader.texts().length === 160)
  t.equal(count('interrupted'), 0)
})

t.test('joins 20,000 channels together, and rejoins them after the server was killed', async (t) => {
  const server = await NatsServer.start(t)
  const { bus, node, count, texts } = await busOf(t, server)
  const channels = Array.from({ length: 20_000 }, (_, index) => `channel ${index}`)
  const { in_msgs: before } = await server.monitor()
  await Promise.all(channels.map((channel) => bus.join(channel)))
  const subscribed = async () => (await server.subscriptions()).get(`fastify-pg-websockets ${node}`)!
  t.ok((await subscribed()) >= 20_000)
  t.equal((await server.monitor()).in_msgs, before, 'joining publishes nothing')
  await server.restart()
  await until(() => count('interrupted') === 1)
  let turns = 0
  while (count('restored') === 0) {
    await nextTurn()
    turns++
  }
  t.ok(turns > 20, 'everything else has its turns meanwhile')
  t.ok((await subscribed()) >= 20_000)
  await bus.announce(channels.map((channel, index) => announcement(channel, index + 1)))
  await until(() => texts().length === 20_000)
  t.same(
    texts(),
    channels.map((_, index) => `text ${index + 1}`)
  )
})

t.test('joins and leaves during a reconnection take effect', async (t) => {
  const server = await NatsServer.start(t)
  const one = await busOf(t, server)
  const other = await busOf(t, server)
  const channels = Array.from({ length: 5000 }, (_, index) => `channel ${index}`)
  await Promise.all(channels.map((channel) => one.bus.join(channel)))
  await server.restart()
  await until(() => one.count('interrupted') === 1)
  const joined: Promise<void>[] = []
  for (let n = 0; one.count('restored') === 0; n++) {
    if (n % 10 === 0 && n < 10_000) {
      joined.push(one.bus.join(`late ${n}`))
      one.bus.leave(`channel ${n / 10}`)
    }
    await nextTurn()
  }
  await Promise.all(joined)
  await until(() => other.bus.up)
  const late = joined.map((_, index) => `late ${index * 10}`)
  const left = new Set(joined.map((_, index) => `channel ${index}`))
  const all = [...channels, ...late]
  await other.bus.announce(
    all.map((channel, index) => announcement(channel, index + 1, channel)),
    { number: 1, from: 0, to: 20_000, channels: [] }
  )
  await until(() => one.count('beat') === 1)
  const expected = all.filter((channel) => !left.has(channel))
  t.ok(late.length > 0)
  t.same(one.texts().sort(), expected.sort())
})

t.test('the server disconnects a node that does not read, and the node reconnects', async (t) => {
  const server = await NatsServer.start(t, 'write_deadline: "1s"\nmax_pending: 2097152')
  const { bus, texts } = await busOf(t, server)
  const child = fork(join(root, 'dist/test/support/nats-node.js'), [server.url, 'pgws.test', 'a'])
  t.teardown(() => child.kill('SIGKILL'))
  const said: string[] = []
  child.on('message', (text: string) => said.push(text))
  await until(() => said.includes('joined'))
  process.kill(child.pid!, 'SIGSTOP')
  const text = 'x'.repeat(100_000)
  let position = 0
  while ((await server.monitor()).slow_consumers === 0) {
    await bus.announce(Array.from({ length: 20 }, () => announcement('a', ++position, text)))
  }
  t.ok(bus.up, 'nobody else is cut off')
  process.kill(child.pid!, 'SIGCONT')
  await until(() => said.includes('restored'))
  t.ok(said.indexOf('interrupted') > said.indexOf('joined'))
  t.notOk(said.includes(`announced ${position}`), 'messages were lost')
  await bus.announce([announcement('a', ++position, 'after')])
  await until(() => said.includes(`announced ${position}`))
  t.same(texts(), [], 'this node has not joined the channel')
  child.disconnect()
  await once(child, 'exit')
})

t.test('in a cluster, nodes continue with another server when theirs is killed', async (t) => {
  const servers = await natsCluster(t)
  const urls = servers.map(({ url }) => url)
  const one = await busOf(t, servers[0]!, { servers: urls })
  const [first] = await Promise.all(
    servers.map(async (server) => ({ server, own: (await server.subscriptions()).size > 0 }))
  ).then((all) => all.filter(({ own }) => own))
  const elsewhere = servers.filter((server) => server !== first!.server)
  const other = await busOf(t, elsewhere[0]!)
  await one.bus.join('a')
  // A server tells others of a subscription without waiting for them. What is missed until then is read from the database.
  let position = 0
  await until(async () => {
    await other.bus.announce([announcement('a', ++position)])
    return one.texts().length > 0
  })
  await first!.server.kill()
  await until(() => one.count('restored') === 1)
  const heard = one.texts().length
  await until(async () => {
    await other.bus.announce([announcement('a', ++position)])
    return one.texts().length > heard
  })
  t.equal(other.count('interrupted'), 0)
})

t.test('the bus moves to another prefix when it changes', async (t) => {
  const server = await NatsServer.start(t)
  let prefix = 'pgws.one'
  const one = await busOf(t, server, { prefix: () => prefix })
  const other = await busOf(t, server, { prefix: () => 'pgws.two' })
  await one.bus.join('a')
  await one.bus.refresh()
  t.equal(one.count('interrupted'), 0, 'the same prefix changes nothing')
  await other.bus.announce([announcement('a', 1, 'not heard')])
  prefix = 'pgws.two'
  await one.bus.refresh()
  t.equal(one.count('interrupted'), 1)
  await until(() => one.count('restored') === 1)
  await other.bus.announce([announcement('a', 2, 'heard')])
  await until(() => one.texts().length === 1)
  t.same(one.texts(), ['heard'])
})

t.test('the last messages before a close arrive, and a closed bus sends nothing', async (t) => {
  const server = await NatsServer.start(t)
  const one = await busOf(t, server)
  const other = await busOf(t, server)
  await one.bus.send('all', ['goodbye'])
  await one.bus.close()
  await until(() => other.received().length === 1)
  t.notOk(one.bus.up)
  const before = one.heard.length
  await other.bus.send('all', ['still there'])
  await until(() => other.received().length === 2)
  await server.kill()
  await until(() => other.count('interrupted') === 1)
  t.equal(one.heard.length, before)
  await one.bus.close()
})
