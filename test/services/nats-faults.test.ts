import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { Random } from '../check/random.js'
import { compare, everyReader, stored } from '../support/every-reader.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { open, query, token, until, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import {
  CHANNELS,
  health,
  leads,
  metric,
  natsNode,
  natsProxy,
  publish,
  traffic
} from '../support/nats-nodes.js'

const { migrated, postgres } = await withPostgres(t)

/** How long servers of NATS that have lost each other are apart at least, in milliseconds: see ChannelOrder. */
const APART = 1200

/** The sequencer, and another server whose messages of NATS can be lost on their way. */
async function setUp(t: Test) {
  const nats = await NatsServer.start(t)
  const dbUri = await migrated(...CHANNELS)
  const other = await natsNode(t, nats, { dbUri })
  await leads(other)
  const proxy = await natsProxy(t, nats)
  const fault = { drop: (_subject: string, _message: string) => false, dropped: 0 }
  proxy.drop = (subject, message) => {
    const drop = fault.drop(subject, message)
    if (drop) fault.dropped++
    return drop
  }
  const way = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const node = await natsNode(t, proxy, { dbUri: way.uri(dbUri), listenerUri: dbUri })
  return { dbUri, node, other, fault, way }
}

t.test('reads messages that NATS servers lost from the database, before newer ones', async (t) => {
  const { dbUri, node, other, fault } = await setUp(t)
  const readers = [...(await everyReader(t, node, CHANNELS)), ...(await everyReader(t, other, CHANNELS))]
  const flow = traffic(dbUri, [node, other])
  for (let n = 0; n < 5; n++) {
    await flow.some()
    fault.drop = () => true
    await sleep(APART)
    fault.drop = () => false
  }
  await flow.some()
  await flow.stop()
  await compare(t, readers, await stored(dbUri))
  t.ok(fault.dropped > 20, `${fault.dropped} were dropped`)
  t.ok((await metric(node, 'healed_gaps_total')) > 0)
  t.equal(await metric(other, 'healed_gaps_total'), 0)
  await until(async () => (await health(node)).status === 'ok')
})

t.test('reads single lost messages from the database, before newer ones of the channel', async (t) => {
  const { dbUri, node, other, fault } = await setUp(t)
  const single = await Promise.all(CHANNELS.map((channel) => everyReader(t, node, [channel])))
  const random = new Random(7)
  fault.drop = () => random.chance(0.05)
  const flow = traffic(dbUri, [node, other])
  await flow.some(200)
  await flow.stop()
  await compare(t, single.flat(), await stored(dbUri))
  t.ok(fault.dropped > 20, `${fault.dropped} were dropped`)
  t.ok((await metric(node, 'healed_gaps_total')) > 0)
})

for (const [what, lose] of [
  [
    'after NATS was interrupted',
    async ({ dbUri, fault }: Awaited<ReturnType<typeof setUp>>, text: string) => {
      fault.drop = () => true
      await publish(dbUri, 'a', text)
      await sleep(APART)
      fault.drop = () => false
    }
  ],
  [
    'while NATS was interrupted at rest',
    async ({ dbUri, fault }: Awaited<ReturnType<typeof setUp>>, text: string) => {
      // The beats that are lost before say nothing new.
      fault.drop = () => true
      await sleep(APART)
      const { dropped } = fault
      await publish(dbUri, 'a', text)
      await until(() => fault.dropped > dropped)
      fault.drop = () => false
    }
  ],
  [
    'and the database is slow',
    async ({ dbUri, fault, way }: Awaited<ReturnType<typeof setUp>>, text: string) => {
      way.delay = 100
      fault.drop = (_subject, message) => message.includes(text)
      await publish(dbUri, 'a', text)
      const { dropped } = fault
      await until(() => fault.dropped > dropped || dropped > 0)
      // Its channel's next message reveals it.
      await publish(dbUri, 'a', 'the next')
    }
  ]
] as const) {
  t.test(
    `the id of a websocket stays correct while a gap of one of its channels is replayed, ${what}`,
    async (t) => {
      const system = await setUp(t)
      const { dbUri, node, other, fault } = system
      const jwt = token({ mode: 'r', channels: CHANNELS })
      const whole = await open(t, `${node.ws}/${jwt}`)
      const ids = () => whole.messages.map((text) => JSON.parse(text).id)
      for (let n = 0; n < 6; n++) {
        const before = whole.messages.length
        await lose(system, `lost ${n}!`)
        for (const channel of ['b', 'c', 'b']) {
          await query(dbUri, 'select pgws.catch_up()')
          await publish(dbUri, channel, `behind ${n}`)
        }
        // One that ends here or there, and continues with the last id that it got, must get the rest.
        await whole.received(before + 1 + (n % 3))
        const had = ids()
        const resumed = await open(t, `${other.ws}/${jwt}?since=${had.at(-1)}`)
        const rest = (await stored(dbUri)).map(({ id }) => id).slice(had.length)
        await resumed.received(rest.length)
        await whole.received(had.length + rest.length)
        t.same(
          resumed.messages.map((text) => JSON.parse(text).id),
          rest
        )
        resumed.webSocket.terminate()
      }
      t.ok(fault.dropped >= 6, `${fault.dropped} were dropped`)
      t.same(
        ids(),
        (await stored(dbUri)).map(({ id }) => id)
      )
    }
  )
}

t.test(
  'without nats-server, reads messages from the database, and GET /health is degraded with 200',
  async (t) => {
    const nats = await NatsServer.start(t)
    const dbUri = await migrated(...CHANNELS)
    const apps = [await natsNode(t, nats, { dbUri }), await natsNode(t, nats, { dbUri })]
    const readers = (await Promise.all(apps.map((app) => everyReader(t, app, CHANNELS)))).flat()
    const flow = traffic(dbUri, apps)
    await flow.some()
    await nats.kill()
    for (const app of apps) {
      await until(async () => (await health(app)).status !== 'ok')
      t.match(await health(app), { status: 'degraded', http: 200, reasons: [/NATS|bus/i] })
    }
    await sleep(5000)
    // Clients that come meanwhile are served, too.
    const late = await open(t, `${apps[0]!.ws}/${token({ mode: 'r', channels: CHANNELS })}?since=earliest`)
    const arrived = () => Math.min(...readers.map(({ got }) => got().length))
    const before = arrived()
    await until(() => arrived() > before)
    for (const app of apps) t.match(await health(app), { status: 'degraded', http: 200 })
    await nats.start()
    for (const app of apps) await until(async () => (await health(app)).status === 'ok')
    const { in_msgs } = await nats.monitor()
    await flow.some()
    await until(async () => (await nats.monitor()).in_msgs > in_msgs)
    await flow.stop()
    const rows = await stored(dbUri)
    await compare(t, readers, rows)
    await late.received(rows.length)
    t.same(
      late.messages.map((text) => JSON.parse(text).id),
      rows.map(({ id }) => id)
    )
  }
)

t.test('no durable message is lost when nats-server restarts without state, at any moment', async (t) => {
  const nats = await NatsServer.start(t)
  const dbUri = await migrated(...CHANNELS)
  const apps = [await natsNode(t, nats, { dbUri }), await natsNode(t, nats, { dbUri })]
  const readers = (await Promise.all(apps.map((app) => everyReader(t, app, CHANNELS)))).flat()
  const flow = traffic(dbUri, apps, 1)
  const random = new Random(17)
  for (let n = 0; n < 8; n++) {
    await sleep(random.below(700))
    await nats.kill()
    await sleep(random.below(500))
    await nats.start()
  }
  for (const app of apps) await until(async () => (await health(app)).status === 'ok')
  await flow.some()
  await flow.stop()
  await compare(t, readers, await stored(dbUri))
})

t.test('reads messages from the database that nats-server discarded without an error', async (t) => {
  const nats = await NatsServer.start(t)
  const dbUri = await migrated(...CHANNELS)
  const other = await natsNode(t, nats, { dbUri })
  await leads(other)
  const proxy = await natsProxy(t, nats)
  const node = await natsNode(t, proxy, { dbUri })
  const readers = [...(await everyReader(t, node, CHANNELS)), ...(await everyReader(t, other, CHANNELS))]
  const flow = traffic(dbUri, [node, other])
  await flow.some()
  // Neither end notices.
  proxy.mode = 'silence'
  proxy.silence()
  await until(async () => (await health(node)).status === 'degraded')
  t.equal((await health(other)).status, 'ok')
  const arrived = () => Math.min(...readers.map(({ got }) => got().length))
  const before = arrived()
  await until(() => arrived() > before)
  proxy.mode = 'pass'
  proxy.cut()
  await until(async () => (await health(node)).status === 'ok')
  await flow.some()
  await flow.stop()
  await compare(t, readers, await stored(dbUri))
})
