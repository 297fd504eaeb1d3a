import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { compare, everyReader, stored } from '../support/every-reader.js'
import { until, withPostgres } from '../support/helper.js'
import { CHANNELS, health, leads, type NatsNode, natsNode, traffic } from '../support/nats-nodes.js'
import { NatsRoutes } from '../support/nats-routes.js'

const { migrated } = await withPostgres(t)

/** So that servers that are disconnected in silence notice it soon. */
const PINGS = 'ping_interval: "500ms"\nping_max: 2'

for (const silently of [false, true]) {
  t.test(
    `NATS servers that are disconnected ${silently ? 'without noticing it' : 'from each other'}, and connected again`,
    async (t) => {
      const cluster = await NatsRoutes.start(t, PINGS)
      const dbUri = await migrated(...CHANNELS)
      const apps: NatsNode[] = []
      for (const server of cluster.servers) {
        apps.push(await natsNode(t, server, { dbUri }))
        // The first one is the sequencer.
        await leads(apps[0]!)
      }
      const readers = (await Promise.all(apps.map((app) => everyReader(t, app, CHANNELS)))).flat()
      const flow = traffic(dbUri, apps)
      await flow.some()
      for (let round = 0; round < 2; round++) {
        cluster.disconnect(2, silently)
        await until(async () => (await health(apps[2]!)).status === 'degraded')
        t.match(await health(apps[2]!), { http: 200 })
        // It reads what it does not hear.
        const arrived = () => Math.min(...readers.map(({ got }) => got().length))
        const before = arrived()
        await until(() => arrived() > before)
        t.equal((await health(apps[1]!)).status, 'ok')
        cluster.reconnect(2)
        await cluster.connected()
        for (const app of apps) await until(async () => (await health(app)).status === 'ok')
        await flow.some()
      }
      // Short ones, of which nobody has noticed anything when it is over.
      for (let round = 0; round < 5; round++) {
        cluster.cut(round % 3)
        await sleep(300)
      }
      await cluster.connected()
      await flow.some()
      await flow.stop()
      await compare(t, readers, await stored(dbUri))
    }
  )
}

t.test('clients continue with another server when a NATS server of a cluster is killed', async (t) => {
  const { servers } = await NatsRoutes.start(t, PINGS)
  const dbUri = await migrated(...CHANNELS)
  const bus = servers.map(({ url }) => url).join(',')
  const apps: NatsNode[] = []
  for (const server of servers) apps.push(await natsNode(t, server, { dbUri, ...{ bus } }))
  const readers = (await Promise.all(apps.map((app) => everyReader(t, app, CHANNELS)))).flat()
  const flow = traffic(dbUri, apps)
  for (const server of servers) {
    await flow.some()
    await server.kill()
    await flow.some()
    await server.start()
    for (const app of apps) await until(async () => (await health(app)).status === 'ok')
  }
  await flow.some()
  await flow.stop()
  await compare(t, readers, await stored(dbUri))
})
