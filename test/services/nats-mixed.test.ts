import t from 'tap'
import { build, LISTEN_CHANNEL, notify, open, query, token, until, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import { leads, natsNode } from '../support/nats-nodes.js'

const { migrated } = await withPostgres(t)
const rw = token({ mode: 'rw', channels: ['kept', 'passing'] })
const admin = token({ admin: true })

interface Answer {
  code: number
  status: string
  reasons: string[]
  bus: { others: string[] }
}

async function healthOf({ http }: { http: string }): Promise<Answer> {
  const response = await fetch(`${http}/health`)
  return { ...((await response.json()) as Answer), code: response.status }
}

async function eventsOf({ http }: { http: string }) {
  const response = await fetch(`${http}/events`, { headers: { authorization: `Bearer ${admin}` } })
  return (await response.json()) as { type: string; reason?: string; text: string }[]
}

const payloadsOf = (messages: string[]) => messages.map((text) => JSON.parse(text).payload)

t.test('servers of which one has no bus say so, and lose nothing', async (t) => {
  const nats = await NatsServer.start(t)
  const dbUri = await migrated('kept')
  const one = await natsNode(t, nats, { dbUri })
  await leads(one)
  const first = await open(t, `${one.ws}/${rw}`)
  const two = await build(t, { dbUri, nodeTimeout: 2000 })
  const ids = [one, two].map(({ fastify }) => fastify.pgws.nodes()[0]!.id)
  for (const [index, app] of [one, two].entries()) {
    const other = ids[1 - index]!
    await until(async () => (await healthOf(app)).bus.others.join() === other)
    const { code, status, reasons } = await healthOf(app)
    t.match({ code, status }, { code: 200, status: 'degraded' })
    t.ok(reasons.some((reason) => reason.includes('PGWS_BUS')))
    const events = (await eventsOf(app)).filter(({ type, reason }) => type === 'bus' && reason === 'mixed')
    t.equal(events.length, 1)
    t.match(events[0]!.text, `${process.pid}`)
    const logged = app.lines.map((line) => JSON.parse(line)).filter(({ nodes }) => nodes?.join() === other)
    t.equal(logged.length, 1)
    t.match(logged[0], { level: 40, msg: events[0]!.text })
  }

  // The database announces for both.
  await leads(two)
  const second = await open(t, `${two.ws}/${rw}`)
  const sent: string[] = []
  for (let n = 0; n < 20; n++) {
    sent.push(`kept ${n}`, `passing ${n}`)
    await query(
      dbUri,
      "select pgws.publish_text('kept', $1), pgws.publish_text('passing', $2)",
      sent.slice(-2)
    )
  }
  for (const client of [first, second]) t.same(payloadsOf(await client.received(40)), sent)
  first.send('from the first')
  second.send('from the second')
  for (const client of [first, second]) {
    // Each is sent to both channels.
    await client.received(44)
    t.same(new Set(payloadsOf(client.messages).slice(40)), new Set(['from the first', 'from the second']))
  }

  // When only servers with a bus are left, it carries messages again.
  await two.fastify.close()
  await until(async () => (await healthOf(one)).status === 'ok')
  t.same((await healthOf(one)).bus.others, [])
  await leads(one)
  await query(dbUri, "select pgws.publish_text('kept', 'end')")
  await until(() => payloadsOf(first.messages).at(-1) === 'end')
  t.equal(first.messages.length, 45)
  t.ok((await eventsOf(one)).some(({ type, reason }) => type === 'bus' && reason === 'same'))
})

t.test('servers with different buses say so', async (t) => {
  const [x, y] = await Promise.all([NatsServer.start(t), NatsServer.start(t)])
  const dbUri = await migrated('kept')
  const one = await natsNode(t, x, { dbUri })
  const two = await build(t, { dbUri, nodeTimeout: 2000, bus: y.url })
  const ids = [one, two].map(({ fastify }) => fastify.pgws.nodes()[0]!.id)
  for (const [index, app] of [one, two].entries()) {
    await until(async () => (await healthOf(app)).bus.others.join() === ids[1 - index])
    t.equal((await healthOf(app)).code, 200)
  }
})

t.test('servers with the same bus are not suspected, whenever they start and stop', async (t) => {
  const nats = await NatsServer.start(t)
  const dbUri = await migrated('kept')
  const one = await natsNode(t, nats, { dbUri })
  for (let round = 0; round < 3; round++) {
    const other = await natsNode(t, nats, { dbUri })
    await until(() => one.fastify.pgws.nodes().length === 2)
    // Longer than a server that is not heard over the bus is given.
    if (round === 1) await new Promise((resolve) => setTimeout(resolve, 1500))
    await other.fastify.close()
    await until(() => one.fastify.pgws.nodes().length === 1)
  }
  t.notOk((await eventsOf(one)).some(({ type, reason }) => type === 'bus' && reason === 'mixed'))
})

t.test('whoever pretends to be a server without a bus does not end the announcements', async (t) => {
  const nats = await NatsServer.start(t)
  const dbUri = await migrated('kept')
  const one = await natsNode(t, nats, { dbUri })
  await leads(one)
  const client = await open(t, `${one.ws}/${rw}`)
  const node = { hostname: 'h', pid: 1, version: '1', startedAt: 1, connections: 1, timeout: 1 }
  const text = JSON.stringify({ pgws: 1, from: 'f'.repeat(16), type: 'heartbeat', node })
  const forge = () => notify(dbUri, text, `pgws_nodes:${LISTEN_CHANNEL}`)
  await forge()
  await until(async () => (await healthOf(one)).bus.others.length === 1)
  const timer = setInterval(() => forge().catch(() => {}), 300)
  t.teardown(() => clearInterval(timer))
  await query(dbUri, "select pgws.publish_text('kept', n::text) from generate_series(1, 3) n")
  t.same(payloadsOf(await client.received(3)), ['1', '2', '3'])
  await leads(one)
  clearInterval(timer)
})
