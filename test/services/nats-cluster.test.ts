import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { freePort } from '../support/app.js'
import { compare, everyReader, stored } from '../support/every-reader.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { until, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import { CHANNELS, health, leads, type NatsNode, natsNode, traffic } from '../support/nats-nodes.js'

const { migrated } = await withPostgres(t)

/** Three servers, each connected to the others through proxies of its own. */
async function cluster(t: Test) {
  const ports = [await freePort(), await freePort(), await freePort()]
  /** Who connects to whom: the ways out of each server. */
  const ways = await Promise.all(
    ports.map((_, from) =>
      Promise.all(
        ports.map((port, to) => (from === to ? Promise.resolve(undefined) : FaultProxy.start(t, port)))
      )
    )
  )
  // Servers tell each other where others are. There nobody answers, so that they use the proxies only.
  const nowhere = await freePort()
  const servers = await Promise.all(
    ports.map((port, n) => {
      const routes = ways[n]!.flatMap((way) => (way === undefined ? [] : `nats://127.0.0.1:${way.port}`))
      return NatsServer.start(
        t,
        `cluster { name: test, listen: "127.0.0.1:${port}", advertise: "127.0.0.1:${nowhere}", no_advertise: true, routes: [${routes.join(', ')}] }
         ping_interval: "500ms"
         ping_max: 2`
      )
    })
  )
  const routes = async () => {
    const all = await Promise.all(servers.map((server) => server.monitor()))
    return all.map((one) => one.routes)
  }
  await until(async () => (await routes()).every((count) => count === 2))
  /** The ways between one server and the others, in both directions. */
  const between = (n: number) =>
    ways.flatMap((out, from) =>
      out.filter((way, to) => way !== undefined && (from === n || to === n))
    ) as FaultProxy[]
  return { servers, routes, between }
}

for (const silently of [false, true]) {
  t.test(
    `NATS servers that are disconnected ${silently ? 'without noticing it' : 'from each other'}, and connected again`,
    async (t) => {
      const { servers, routes, between } = await cluster(t)
      const dbUri = await migrated(...CHANNELS)
      const apps: NatsNode[] = []
      for (const server of servers) {
        apps.push(await natsNode(t, server, { dbUri }))
        // The first one is the sequencer.
        await leads(apps[0]!)
      }
      const readers = (await Promise.all(apps.map((app) => everyReader(t, app, CHANNELS)))).flat()
      const flow = traffic(dbUri, apps)
      await flow.some()
      for (let round = 0; round < 2; round++) {
        for (const way of between(2)) {
          way.mode = silently ? 'silence' : 'refuse'
          if (silently) way.silence()
          else way.cut()
        }
        await until(async () => (await health(apps[2]!)).status === 'degraded')
        t.match(await health(apps[2]!), { http: 200 })
        // It reads what it does not hear.
        const arrived = () => Math.min(...readers.map(({ got }) => got().length))
        const before = arrived()
        await until(() => arrived() > before)
        t.equal((await health(apps[1]!)).status, 'ok')
        for (const way of between(2)) {
          way.mode = 'pass'
          way.cut()
        }
        await until(async () => (await routes()).every((count) => count === 2))
        for (const app of apps) await until(async () => (await health(app)).status === 'ok')
        await flow.some()
      }
      // Short ones, of which nobody has noticed anything when it is over.
      for (let round = 0; round < 5; round++) {
        for (const way of between(round % 3)) way.cut()
        await sleep(300)
      }
      await until(async () => (await routes()).every((count) => count === 2))
      await flow.some()
      await flow.stop()
      await compare(t, readers, await stored(dbUri))
    }
  )
}

t.test('clients continue with another server when a NATS server of a cluster is killed', async (t) => {
  const { servers } = await cluster(t)
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
