import pg from 'pg'
import t, { type Test } from 'tap'
import {
  ALL_KINDS,
  type AnyReader,
  compare,
  type Got,
  type Kind,
  reader,
  stored
} from '../support/every-reader.js'
import { query, token, until, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import { leads, type NatsNode, natsNode } from '../support/nats-nodes.js'
import { raw, sdk, subscribed } from '../support/sdk.js'

const { migrated } = await withPostgres(t)
const nats = await NatsServer.start(t)

/** Publishes on channels, in SQL and through servers, until it is stopped. */
class Flow {
  /** What was published by each way, by channel, in order. */
  readonly published: Got[] = []
  /** How many have been published completely. */
  done = 0
  #over = false
  readonly #running: Promise<void>

  constructor(dbUri: string, apps: NatsNode[], channels: readonly string[]) {
    this.#running = this.#publish(dbUri, apps, channels)
  }

  async #publish(dbUri: string, apps: NatsNode[], channels: readonly string[]): Promise<void> {
    const client = new pg.Client(dbUri)
    await client.connect()
    try {
      for (let n = 0; !this.#over; n++) {
        for (const channel of channels) this.published.push({ channel, payload: `${n}` })
        if (n % 3 === 0) {
          for (const [i, channel] of channels.entries()) {
            await apps[(n + i) % apps.length]!.fastify.pgws.publish(channel, `${n}`)
          }
        } else {
          await client.query('select pgws.publish_text(c, $2) from unnest($1::text[]) c', [channels, `${n}`])
        }
        this.done = n + 1
      }
    } finally {
      await client.end()
    }
  }

  /** Waits for some more messages. */
  async some(count = 3): Promise<void> {
    const goal = this.done + count
    await until(() => this.done >= goal)
  }

  async stop(): Promise<void> {
    this.#over = true
    await this.#running
  }
}

interface Joined extends AnyReader {
  /** How many messages of each channel were published before it was asked to join, and when it had joined. */
  before: number
  after: number
}

/** Waits until a reader has the last message of each of its channels, and compares from where it begins. */
async function compareJoined(
  t: Test,
  joined: Joined,
  messages: readonly Got[],
  earliest: boolean
): Promise<void> {
  const own = messages.filter(({ channel }) => joined.channels.includes(channel))
  const { got, channels } = joined
  await until(() =>
    channels.every((channel) => got().some((one) => one.channel === channel && one.payload === 'end'))
  )
  if (earliest) return compare(t, [joined], messages)
  const [first] = got()
  const start = own.findIndex(
    ({ channel, payload }) => channel === first!.channel && payload === first!.payload
  )
  // What was published after it had joined must have come; earlier ones may have.
  const number = Number(first!.payload === 'end' ? joined.after : first!.payload)
  t.ok(
    number <= joined.after,
    `${joined.name} begins with ${first!.payload}, and had joined before ${joined.after + 1}`
  )
  await compare(t, [joined], own.slice(start))
}

for (const [kinds, channel] of [
  ['durable', 'kept'],
  ['not durable', 'passing']
] as const) {
  t.test(`clients that join ${kinds} channels while others publish miss and repeat nothing`, async (t) => {
    const dbUri = await migrated('kept *')
    const apps = [await natsNode(t, nats, { dbUri }), await natsNode(t, nats, { dbUri })]
    await leads(apps[0]!)
    // Each reader is the first of its channels on its server, so that the server joins them.
    const channels = Array.from({ length: 48 }, (_, n) => `${channel} ${n}`)
    const witness = (await reader(t, 'websocket', apps[0]!, channels))[0]!
    const flow = new Flow(dbUri, apps, channels)
    await flow.some()
    const joined: [Joined, boolean][] = []
    for (let n = 0; n < channels.length; ) {
      const kind: Kind = ALL_KINDS[joined.length % ALL_KINDS.length]!
      const count = n % 5 === 0 ? 3 : 1
      const earliest = channel === 'kept' && n % 2 === 0
      const own = channels.slice(n, n + count)
      n += count
      const before = flow.done
      const readers = await reader(t, kind, apps[1]!, own, earliest)
      for (const one of readers) joined.push([{ ...one, before, after: flow.done + 1 }, earliest])
    }
    await flow.some()
    await flow.stop()
    for (const name of channels) await query(dbUri, 'select pgws.publish_text($1, $2)', [name, 'end'])
    let messages: Got[]
    if (channel === 'kept') messages = await stored(dbUri)
    else {
      // The witness has read from the beginning.
      const ends = () => witness.got().filter(({ payload }) => payload === 'end').length
      await until(() => ends() === channels.length)
      messages = witness.got()
      t.equal(messages.length, flow.published.length + channels.length)
    }
    await compare(t, [witness], messages)
    for (const [one, earliest] of joined) await compareJoined(t, one, messages, earliest)
  })
}

t.test('clients that leave and rejoin while others publish miss and repeat nothing', async (t) => {
  const dbUri = await migrated('kept *')
  const apps = [await natsNode(t, nats, { dbUri }), await natsNode(t, nats, { dbUri })]
  await leads(apps[0]!)
  const channels = ['kept 0', 'kept 1']
  const flow = new Flow(dbUri, apps, channels)
  // An SDK recovers after each interruption, on whichever server it is then.
  let at = 0
  const transport = 'websocket' as const
  const endpoint = () => `${apps[at++ % 2]!.ws}/connection/websocket`
  const client = sdk(t, '', { token: token({ mode: 'r' }) }, undefined, [{ transport, endpoint }])
  const subscriptions = channels.map((name) => subscribed(client, name))
  client.connect()
  for (const { subscription } of subscriptions) await subscription.ready(60_000)
  const began = flow.done
  for (let n = 0; n < 20; n++) {
    await flow.some(2)
    const times = subscriptions[1]!.contexts.length
    raw(client)!.terminate()
    await until(() => subscriptions.every(({ contexts }) => contexts.length > times))
  }
  await flow.some()
  await flow.stop()
  const messages = await stored(dbUri)
  for (const [i, { got, contexts }] of subscriptions.entries()) {
    const own = messages.filter(({ channel }) => channel === channels[i])
    await until(() => got.at(-1)?.data === own.at(-1)!.payload)
    t.ok(Number(got[0]!.data) <= began + 1)
    const start = own.findIndex(({ payload }) => payload === got[0]!.data)
    t.same(
      got.map(({ data }) => data),
      own.slice(start).map(({ payload }) => payload)
    )
    t.equal(contexts.slice(1).filter(({ recovered }) => !recovered).length, 0)
  }
})
