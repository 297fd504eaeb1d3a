import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import type { PgWebsocketsOptions } from '../../index.js'
import { type App, run, started } from './app.js'
import { FaultProxy } from './fault-proxy.js'
import { build, query, SECRET, until } from './helper.js'
import type { NatsServer } from './nats.js'
import { NatsFilter } from './nats-filter.js'

export type NatsNode = Awaited<ReturnType<typeof natsNode>>

/** A way to a nats-server that can be cut, and of whose messages some can be dropped. */
export async function natsProxy(t: Test, { port }: { port: number }): Promise<FaultProxy> {
  const proxy = await FaultProxy.start(t, port)
  proxy.filter = () => new NatsFilter()
  return proxy
}

/**
 * Starts a server in this process, and waits until it is connected to its bus.
 * @param nats a nats-server, or a proxy before it
 */
export async function natsNode(
  t: Test,
  nats: { port: number },
  options: Partial<PgWebsocketsOptions> & { dbUri: string }
) {
  const bus = { bus: `nats://127.0.0.1:${nats.port}` }
  const app = await build(t, { checkListenerInterval: 1000, nodeTimeout: 2000, ...bus, ...options })
  await until(async () => (await health(app)).status === 'ok')
  return app
}

export interface HealthAnswer {
  http: number
  status: string
  reasons: string[]
  outbox: { sequencer: boolean }
  bus: { name: string; status: string }
}

/** What a server says of itself, and with which status of HTTP. */
export async function health({ http }: { http: string }): Promise<HealthAnswer> {
  const response = await fetch(`${http}/health`)
  return { ...((await response.json()) as Omit<HealthAnswer, 'http'>), http: response.status }
}

/** Waits until a server is the sequencer. */
export async function leads(app: { http: string }): Promise<void> {
  await until(async () => (await health(app)).outbox?.sequencer)
}

/** The value of a metric of a server. */
export async function metric({ http }: { http: string }, name: string): Promise<number> {
  const text = await (await fetch(`${http}/metrics`)).text()
  return Number(new RegExp(`^pgws_${name} (.*)$`, 'm').exec(text)![1])
}

/** The subject on which a channel's messages are announced, without what all subjects of a cluster begin with. */
export function subjectOf(channel: string): string {
  return `.m.${Buffer.from(channel).toString('base64url')}`
}

/** Whether a nats-server has a subscription for a channel, of any client or of one. */
export async function isJoined(nats: NatsServer, channel: string): Promise<boolean> {
  const connections = await nats.clients()
  return connections.some(({ subscriptions_list: all = [] }) =>
    all.some((subject) => subject.endsWith(subjectOf(channel)))
  )
}

/** The channels of `traffic`. */
export const CHANNELS = ['a', 'b', 'c']

/** Publishes in SQL, in one transaction. */
export const publish = (dbUri: string, channel: string, ...payloads: string[]) =>
  query(dbUri, 'select pgws.publish_text($1, p) from unnest($2::text[]) p', [channel, payloads])

/**
 * Publishes on all channels, in SQL and through servers, until it is stopped.
 * @param pause between two messages, in milliseconds
 */
export function traffic(dbUri: string, apps: NatsNode[], pause = 5) {
  let over = false
  let count = 0
  const bySql = async () => {
    for (; !over; count++) {
      const texts = Array.from({ length: 1 + (count % 4) }, (_, i) => `sql ${count} ${i}`)
      if (count % 10 === 0) texts.push('x'.repeat(9000))
      await publish(dbUri, CHANNELS[count % 3]!, ...texts)
      await sleep(pause)
    }
  }
  const byServer = async ({ fastify }: NatsNode, name: string) => {
    for (let n = 0; !over; n++) {
      await fastify.pgws.publish(CHANNELS[n % 3]!, `${name} ${n}`)
      await sleep(pause)
    }
  }
  const running = Promise.all([bySql(), ...apps.map((app, i) => byServer(app, `server ${i}`))])
  return {
    some: async (more = 20) => {
      const goal = count + more
      await until(() => count >= goal)
    },
    stop: async () => {
      over = true
      await running
    }
  }
}

/** A server in a process of its own, which can be stopped and killed. */
export async function natsChild(
  t: Test,
  dbUri: string,
  nats: { port: number },
  environment: Record<string, string> = {}
): Promise<App> {
  const app = await started(
    await run(t, {
      PGWS_DB_URI: dbUri,
      PGWS_JWT_SECRET: SECRET,
      PGWS_HOST: '127.0.0.1',
      PGWS_BUS: `nats://127.0.0.1:${nats.port}`,
      PGWS_CHECK_LISTENER_INTERVAL: '500',
      PGWS_NODE_TIMEOUT: '2000',
      ...environment
    })
  )
  await until(async () => (await health(app)).status === 'ok')
  return app
}
