import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { type App, run, started } from '../support/app.js'
import { build, notify, open, query, SECRET, token, until, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import { health, leads, natsNode, natsProxy, publish } from '../support/nats-nodes.js'
import { previousRelease, RELEASES } from '../support/previous-release.js'

const { migrated, database } = await withPostgres(t)
const nats = await NatsServer.start(t)
const reader = (...channels: string[]) => token({ mode: 'r', channels })
const rw = token({ mode: 'rw' })
const payloads = ({ messages }: { messages: string[] }) => messages.map((text) => JSON.parse(text).payload)

const without = (t: Test, dbUri: string) =>
  build(t, { dbUri, checkListenerInterval: 60_000, nodeTimeout: 2000 })

t.test('while NATS is away, what is notified on the listen channel arrives', async (t) => {
  const own = await NatsServer.start(t)
  const dbUri = await migrated('kept')
  const app = await natsNode(t, own, { dbUri })
  const client = await open(t, `${app.ws}/${reader('kept', 'plain')}`)
  await own.kill()
  await until(async () => (await health(app)).bus.status === 'away')
  for (let n = 0; n < 10; n++) {
    await notify(dbUri, JSON.stringify({ channel: 'plain', payload: `notified ${n}` }))
    await publish(dbUri, 'kept', `kept ${n}`)
    await client.received(2 * n + 2)
  }
  await own.start()
  await until(async () => (await health(app)).status === 'ok')
  await notify(dbUri, JSON.stringify({ channel: 'plain', payload: 'notified 10' }))
  await client.received(21)
  for (const kind of ['notified', 'kept']) {
    t.same(
      payloads(client).filter((payload) => payload.startsWith(kind)),
      Array.from({ length: kind === 'kept' ? 10 : 11 }, (_, n) => `${kind} ${n}`)
    )
  }
})

t.test('a server without a bus becomes the sequencer while NATS is away for the others', async (t) => {
  const own = await NatsServer.start(t)
  const dbUri = await migrated('kept')
  const app = await natsNode(t, own, { dbUri })
  await leads(app)
  const client = await open(t, `${app.ws}/${reader('kept', 'passing')}`)
  const other = await without(t, dbUri)
  const both = [client, await open(t, `${other.ws}/${reader('kept', 'passing')}`)]
  await own.kill()
  await leads(other)
  await until(async () => (await health(app)).bus.status === 'bypassed')
  await publish(dbUri, 'kept', 'one')
  await publish(dbUri, 'passing', 'two')
  for (const one of both) t.same(payloads({ messages: await one.received(2) }), ['one', 'two'])
  await own.start()
  await publish(dbUri, 'kept', 'three')
  await publish(dbUri, 'passing', 'four')
  for (const one of both)
    t.same(payloads({ messages: await one.received(4) }), ['one', 'two', 'three', 'four'])
})

/** Reads a channel, and comes back with the last id that it got to whichever server is there. */
class Follower {
  readonly got: string[] = []
  gaps = 0
  #last = 'earliest'
  #over = false
  #socket: WebSocket | undefined

  constructor(t: Test, apps: () => App[]) {
    t.teardown(() => this.stop())
    this.#follow(apps)
  }

  stop(): void {
    this.#over = true
    this.#socket?.terminate()
  }

  async #follow(apps: () => App[]): Promise<void> {
    for (let visit = 0; !this.#over; visit++) {
      const all = apps()
      const socket = new WebSocket(
        `${all[visit % all.length]!.ws}/kept/${reader('kept')}?since=${this.#last}`
      )
      this.#socket = socket
      socket.on('message', (data) => {
        const { id, event, pgws, payload } = JSON.parse(String(data))
        if (pgws && event === 'HistoryGap') this.gaps++
        if (pgws) return
        this.#last = id
        this.got.push(payload)
      })
      await new Promise((resolve) => socket.on('error', () => {}).on('close', resolve))
      await sleep(20)
    }
  }
}

t.test('a rolling upgrade from the release without a bus, and then to the bus, loses nothing', async (t) => {
  const cli = await previousRelease(t, RELEASES.at(-1)!)
  if (cli === undefined) {
    t.pass('not tested', { skip: 'the history of this clone does not have the previous release' })
    return
  }
  const dbUri = await database()
  const environment = {
    PGWS_DB_URI: dbUri,
    PGWS_JWT_SECRET: SECRET,
    PGWS_HOST: '127.0.0.1',
    PGWS_MIGRATE: 'true',
    PGWS_NODE_TIMEOUT: '2000',
    PGWS_CHECK_LISTENER_INTERVAL: '500'
  }
  const start = async (more: Record<string, string> = {}, command?: string) => {
    const app = await started(await run(t, { ...environment, ...more }, [], command))
    await until(async () => (await health(app)).http === 200)
    return app
  }
  const apps = [await start({}, cli), await start({}, cli)]
  await query(dbUri, `select pgws.retain('kept', '1 hour')`)
  const followers = Array.from({ length: 4 }, () => new Follower(t, () => apps))
  const acknowledged: string[] = []
  let over = false
  const bySql = async () => {
    for (let n = 0; !over; n++) {
      await publish(dbUri, 'kept', `sql ${n}`)
      acknowledged.push(`sql ${n}`)
      await sleep(5)
    }
  }
  const byHttp = async (name: string) => {
    for (let n = 0; !over; n++) {
      const payload = `${name} ${n}`
      // The same key until it is acknowledged: stored once, however often that takes, and by whichever release.
      for (let attempt = n; ; attempt++) {
        const status = await fetch(`${apps[attempt % apps.length]!.http}/publish`, {
          method: 'POST',
          headers: {
            authorization: `Bearer ${rw}`,
            'content-type': 'application/json',
            'idempotency-key': payload
          },
          body: JSON.stringify({ channel: 'kept', payload })
        }).then(
          (response) => response.status,
          () => 0
        )
        if (status === 202) break
        await sleep(20)
      }
      acknowledged.push(payload)
    }
  }
  const writers = [bySql(), byHttp('one'), byHttp('two')]
  const some = async () => {
    const goal = acknowledged.length + 60
    await until(() => acknowledged.length >= goal)
  }
  const change = async (n: number, more: Record<string, string>, signal: NodeJS.Signals) => {
    await some()
    const next = await start(more)
    const before = apps[n]!
    apps[n] = next
    before.child.kill(signal)
    await before.exit
    await some()
  }
  await change(0, {}, 'SIGTERM')
  await change(1, {}, 'SIGKILL')
  await change(0, { PGWS_BUS: nats.url }, 'SIGKILL')
  await change(1, { PGWS_BUS: nats.url }, 'SIGTERM')
  for (const app of apps) {
    await until(async () => (await health(app)).status === 'ok')
    t.match(await health(app), { bus: { name: 'nats', status: 'up' } })
  }
  await some()
  over = true
  await Promise.all(writers)
  await query(dbUri, 'select pgws.catch_up()')
  const { rows } = await query(
    dbUri,
    `select message::json ->> 'payload' as payload from pgws.history('kept', null, 1000000)`
  )
  const stored = rows.map(({ payload }) => payload)
  t.same([...stored].sort(), [...acknowledged].sort())
  for (const follower of followers) {
    await until(() => follower.got.length >= stored.length)
    t.ok(JSON.stringify(follower.got) === JSON.stringify(stored), 'all of it, once and in order')
    t.equal(follower.gaps, 0)
  }
})

t.test(
  'what NATS lost before the sequencer changes to a server without it arrives before what is newer',
  async (t) => {
    const dbUri = await migrated('kept')
    const app = await natsNode(t, nats, { dbUri })
    await leads(app)
    const proxy = await natsProxy(t, nats)
    let losing = false
    proxy.drop = () => losing
    const deaf = await natsNode(t, proxy, { dbUri })
    const client = await open(t, `${deaf.ws}/${reader('passing')}`)
    const published: string[] = []
    const send = async (count: number) => {
      for (let n = 0; n < count; n++) {
        const payload = String(published.length)
        await publish(dbUri, 'passing', payload)
        published.push(payload)
      }
    }
    await send(3)
    await client.received(3)
    losing = true
    await send(3)
    const other = await without(t, dbUri)
    await leads(other)
    await send(3)
    t.same(payloads({ messages: await client.received(9) }), published)
  }
)
