import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { compare, everyReader, stored } from '../support/every-reader.js'
import { open, query, token, until, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import {
  CHANNELS,
  health,
  leads,
  natsChild,
  natsNode,
  natsProxy,
  publish,
  traffic
} from '../support/nats-nodes.js'

const { migrated } = await withPostgres(t)

t.test('all messages arrive once if a sequencer is killed before it records what it announced', async (t) => {
  const nats = await NatsServer.start(t)
  const dbUri = await migrated(...CHANNELS)
  const proxy = await natsProxy(t, nats)
  const sequencer = await natsChild(t, dbUri, proxy)
  await leads(sequencer)
  const node = await natsNode(t, nats, { dbUri })
  const readers = await everyReader(t, node, CHANNELS)
  const passing = await open(t, `${node.ws}/passing/${token({ mode: 'r' })}`)
  await publish(dbUri, 'a', 'before')
  await until(() => readers[0]!.got().length === 1)
  // It is not told that NATS has taken what it announces.
  proxy.mute()
  await publish(dbUri, 'a', 'announced')
  await publish(dbUri, 'passing', 'announced')
  await until(() => readers[0]!.got().length === 2)
  sequencer.child.kill('SIGKILL')
  await leads(node)
  await publish(dbUri, 'b', 'after')
  await publish(dbUri, 'passing', 'after')
  await compare(t, readers, await stored(dbUri))
  await until(() => passing.messages.some((text) => JSON.parse(text).payload === 'after'))
  t.same(
    passing.messages.map((text) => JSON.parse(text).payload),
    ['announced', 'after']
  )
})

t.test('two nodes that both act as the sequencer announce nothing twice or out of order', async (t) => {
  const nats = await NatsServer.start(t)
  const dbUri = await migrated(...CHANNELS)
  const apps = [await natsChild(t, dbUri, nats), await natsChild(t, dbUri, nats)]
  await leads(apps[0]!)
  const readers = (await Promise.all(apps.map((app) => everyReader(t, app, CHANNELS)))).flat()
  const flow = traffic(dbUri, [], 1)
  for (let n = 0; n < 4; n++) {
    await flow.some()
    // In the middle of what it does.
    apps[n % 2]!.child.kill('SIGSTOP')
    await leads(apps[(n + 1) % 2]!)
    await flow.some()
    apps[n % 2]!.child.kill('SIGCONT')
    await flow.some()
  }
  await flow.stop()
  await compare(t, readers, await stored(dbUri))
  await until(async () => {
    const leading = await Promise.all(apps.map(async (app) => (await health(app)).outbox.sequencer))
    return leading.filter(Boolean).length === 1
  })
})

t.test('a stopped server, which nats-server drops as a slow consumer, loses nothing', async (t) => {
  const nats = await NatsServer.start(t, 'max_pending: 1048576\nwrite_deadline: "1s"')
  const dbUri = await migrated(...CHANNELS)
  const other = await natsNode(t, nats, { dbUri })
  await leads(other)
  const slow = await natsChild(t, dbUri, nats, { PGWS_MAX_BUFFERED_BYTES: String(2 ** 28) })
  const readers = await everyReader(t, slow, ['a'])
  await publish(dbUri, 'a', 'before')
  await until(() => readers[0]!.got().length === 1)
  slow.child.kill('SIGSTOP')
  // More than the buffers of the system have room for.
  for (let n = 0; n < 400 && !/slow consumer/i.test(nats.output); n++) {
    await query(dbUri, `select pgws.publish_text('a', n || repeat('x', 7000)) from generate_series(1, 20) n`)
    await sleep(20)
  }
  await until(() => /slow consumer/i.test(nats.output))
  slow.child.kill('SIGCONT')
  await publish(dbUri, 'a', 'after')
  await compare(t, readers, await stored(dbUri))
  await until(async () => (await health(slow)).status === 'ok')
})

t.test('rejoins 20,000 channels of clients when nats-server restarts', async (t) => {
  const count = 20_000
  const each = 500
  const nats = await NatsServer.start(t)
  const dbUri = await migrated()
  const node = await natsNode(t, nats, { dbUri, maxChannelsPerConnection: each })
  const clients = await Promise.all(
    Array.from({ length: count / each }, async (_, i) => {
      const channels = Array.from({ length: each }, (_, n) => `channel ${i * each + n}`)
      const authorization = `Bearer ${token({ mode: 'r', channels })}`
      return open(t, `${node.ws}/`, { headers: { authorization } })
    })
  )
  const subscriptions = async () => (await nats.monitor()).subscriptions
  t.ok((await subscriptions()) >= count)
  for (let round = 1; round <= 2; round++) {
    await nats.kill()
    await nats.start()
    await until(async () => (await subscriptions()) >= count)
    await until(async () => (await health(node)).status === 'ok')
    await query(
      dbUri,
      `select pgws.publish_text('channel ' || n, $1) from generate_series(0, ${count - 1}) n`,
      [`${round}`]
    )
    for (const client of clients) await client.received(round * each)
  }
  for (const { messages } of clients) {
    const got = messages.map((text) => JSON.parse(text))
    t.equal(got.length, 2 * each)
    t.equal(new Set(got.map(({ channel, payload }) => `${payload} ${channel}`)).size, 2 * each)
  }
})
