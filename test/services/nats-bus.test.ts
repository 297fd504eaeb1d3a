import t, { type Test } from 'tap'
import type { Announcement, Beat } from '../../lib/bus/index.js'
import { NatsBus, type NatsBusOptions } from '../../lib/bus/index.js'
import { until } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'

type Heard =
  | { announced: Announcement }
  | { beat: Beat }
  | { told: string }
  | { interrupted: string }
  | { restored: true }

let nodes = 0

/** A started bus, and what it hears. */
async function busOf(t: Test, server: NatsServer, options: Partial<NatsBusOptions> = {}) {
  const lines: string[] = []
  const heard: Heard[] = []
  const add = (fields: object, message: string) =>
    lines.push(`${message} ${String((fields as { err?: unknown }).err)}`)
  const bus = new NatsBus({
    servers: [server.url],
    credentials: undefined,
    ca: undefined,
    prefix: () => 'pgws.test',
    node: `node${nodes++}`,
    log: { debug: add, info: add, warn: add, error: add },
    ...options
  })
  t.teardown(() => bus.close())
  await bus.start({
    announced: (announcement) => heard.push({ announced: announcement }),
    beat: (beat) => heard.push({ beat }),
    told: (text) => heard.push({ told: text }),
    interrupted: (error) => heard.push({ interrupted: error.message }),
    restored: () => heard.push({ restored: true })
  })
  const texts = () => heard.flatMap((one) => ('announced' in one ? [one.announced.text] : []))
  return { bus, heard, texts, lines }
}

t.test(
  'a node hears what is announced on the channels that it has joined, in order, and beats',
  async (t) => {
    const server = await NatsServer.start(t)
    const one = await busOf(t, server)
    const other = await busOf(t, server)
    t.ok(one.bus.up)
    await one.bus.join('a')
    await Promise.all([other.bus.join('a'), other.bus.join('b')])
    const batch = Array.from({ length: 1000 }, (_, index) => ({
      channel: index % 2 ? 'b' : 'a',
      position: index + 1,
      previous: Math.max(0, index - 1),
      text: `${index}`
    }))
    const beat = {
      from: 0,
      to: 1000,
      channels: [
        [1, 999],
        [2 ** 32 - 1, 1000]
      ] as const
    }
    await one.bus.announce(batch, beat)
    await until(() => other.heard.length === 1001 && one.heard.length === 501)
    t.same(other.heard, [...batch.map((announced) => ({ announced })), { beat }])
    t.same(one.heard, [
      ...batch.filter(({ channel }) => channel === 'a').map((announced) => ({ announced })),
      { beat }
    ])
  }
)

t.test('after the server was killed, the bus is back with its channels', async (t) => {
  const server = await NatsServer.start(t)
  const { bus, heard, texts } = await busOf(t, server)
  await bus.join('a')
  await server.kill()
  await until(() => heard.some((one) => 'interrupted' in one))
  t.notOk(bus.up)
  await t.rejects(bus.announce([{ channel: 'a', position: 1, previous: 0, text: 'lost' }]), {
    code: 'FST_PGWS_NODES_UNAVAILABLE'
  })
  await bus.join('b')
  await server.start()
  await until(() => heard.some((one) => 'restored' in one))
  t.ok(bus.up)
  await bus.announce([
    { channel: 'a', position: 1, previous: 0, text: 'to a' },
    { channel: 'b', position: 2, previous: 0, text: 'to b' }
  ])
  await until(() => texts().length === 2)
  t.same(texts(), ['to a', 'to b'])
})
