import t, { type Test } from 'tap'
import type { PgWebsocketsOptions } from '../../index.js'
import { open, token, until, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import { isJoined, natsNode, natsProxy, subjectOf } from '../support/nats-nodes.js'
import { NatsRoutes } from '../support/nats-routes.js'
import { sdk, subscribed } from '../support/sdk.js'

const { migrated } = await withPostgres(t)
const nats = await NatsServer.start(t)
const as = (sub: string, mode = 'r') => token({ mode, sub })

/** A server with presence, which notes on which subjects it gets messages. */
async function counted(
  t: Test,
  dbUri: string,
  server: { port: number } = nats,
  options: Partial<PgWebsocketsOptions> = {}
) {
  const proxy = await natsProxy(t, server)
  const subjects: string[] = []
  proxy.drop = (subject) => {
    subjects.push(subject)
    return false
  }
  const app = await natsNode(t, proxy, { dbUri, presenceChannels: 'room:*', ...options })
  const received = (channel: string) =>
    subjects.filter((subject) => subject.endsWith(subjectOf(channel))).length
  /** How many messages to all servers it has received. */
  const all = () => subjects.filter((subject) => subject.endsWith('.n.all')).length
  return { app, proxy, subjects, received, all }
}

type Counted = Awaited<ReturnType<typeof counted>>

async function usersOn({ app }: Counted, channel: string): Promise<string> {
  const { clients } = await app.fastify.pgws.presence(channel)
  return clients
    .map(({ user }) => user)
    .sort()
    .join()
}

const agree = (servers: Counted[], channel: string, users: string) =>
  until(async () => {
    const all = await Promise.all(servers.map((server) => usersOn(server, channel).catch(String)))
    return all.every((one) => one === users)
  })

/** Who is there, after all that a client with `?presence=true` has received. */
function keep(messages: string[]): string {
  const there = new Map<string, string>()
  for (const text of messages) {
    const { event, payload } = JSON.parse(text)
    if (event === 'Presence') {
      there.clear()
      for (const { client, user } of payload.clients) there.set(client, user)
    } else if (event === 'Join') there.set(payload.client, payload.user)
    else if (event === 'Leave') there.delete(payload.client)
  }
  return [...there.values()].sort().join()
}

t.test('members are told to the servers whose clients joined the channel, and to no others', async (t) => {
  const dbUri = await migrated('kept-*')
  const [one, two, idle] = await Promise.all([counted(t, dbUri), counted(t, dbUri), counted(t, dbUri)])
  await until(() => one.app.fastify.pgws.nodes().length === 3)
  const watching = await open(t, `${one.app.ws}/room:1/${as('alice')}?presence=true`)
  await open(t, `${two.app.ws}/room:1/${as('bob')}`)
  await open(t, `${two.app.ws}/room:2/${as('bert')}`)
  // One that may only write is a member, too.
  const writer = await open(t, `${two.app.ws}/room:1/${as('walter', 'w')}`)
  const client = sdk(t, one.app.ws, { token: token({ mode: 'r', sub: 'sara' }) })
  client.connect()
  await subscribed(client, 'room:1').subscription.ready(60_000)
  await agree([one, two], 'room:1', 'alice,bob,sara,walter')
  await until(() => keep(watching.messages) === 'alice,bob,sara,walter')
  writer.webSocket.terminate()
  await until(() => keep(watching.messages) === 'alice,bob,sara')
  await agree([one, two], 'room:1', 'alice,bob,sara')

  t.ok(one.received('room:1') > 0)
  t.equal(one.received('room:2'), 0)
  for (const channel of ['room:1', 'room:2']) t.equal(idle.received(channel), 0)
  // A server without clients in the channel asks the others.
  t.equal(await usersOn(idle, 'room:1'), 'alice,bob,sara')
  t.equal(await usersOn(idle, 'room:2'), 'bert')
  t.equal((await client.presenceStats('room:2')).numClients, 1)
})

t.test('the members of a server that has only writers are found', async (t) => {
  const dbUri = await migrated('kept-*')
  const [one, two] = await Promise.all([counted(t, dbUri), counted(t, dbUri)])
  await until(() => one.app.fastify.pgws.nodes().length === 2)
  await open(t, `${one.app.ws}/room:w/${as('walter', 'w')}`)
  await until(() => isJoined(nats, 'room:w'))
  const watching = await open(t, `${two.app.ws}/room:w/${as('rita')}?presence=true`)
  await until(() => keep(watching.messages) === 'rita,walter')
})

t.test('what is missed while a server is cut off from NATS is caught up with', async (t) => {
  const dbUri = await migrated('kept-*')
  const [one, two] = await Promise.all([counted(t, dbUri), counted(t, dbUri)])
  await until(() => one.app.fastify.pgws.nodes().length === 2)
  const watching = await open(t, `${one.app.ws}/room:1/${as('alice')}?presence=true`)
  const leaving = await open(t, `${two.app.ws}/room:1/${as('leaves')}`)
  await open(t, `${two.app.ws}/room:1/${as('stays')}`)
  await until(() => keep(watching.messages) === 'alice,leaves,stays')
  for (const cut of [one, two]) {
    cut.proxy.mode = 'refuse'
    cut.proxy.cut()
    await until(async () =>
      (await fetch(`${cut.app.http}/health`).then((answer) => answer.text())).includes('"away"')
    )
    leaving.webSocket.close()
    const name = `came ${[one, two].indexOf(cut)}`
    await open(t, `${two.app.ws}/room:1/${as(name)}`)
    cut.proxy.mode = 'pass'
    await until(() => keep(watching.messages).includes(name) && !keep(watching.messages).includes('leaves'))
  }
  await agree([one, two], 'room:1', 'alice,came 0,came 1,stays')
  await until(() => keep(watching.messages) === 'alice,came 0,came 1,stays')
})

t.test('changes that are lost in silence are noticed with heartbeats', async (t) => {
  const dbUri = await migrated('kept-*')
  const [one, two] = await Promise.all([counted(t, dbUri), counted(t, dbUri)])
  await until(() => one.app.fastify.pgws.nodes().length === 2)
  const watching = await open(t, `${one.app.ws}/room:1/${as('alice')}?presence=true`)
  const leaving = await open(t, `${two.app.ws}/room:1/${as('leaves')}`)
  await open(t, `${two.app.ws}/room:1/${as('stays')}`)
  await until(() => keep(watching.messages) === 'alice,leaves,stays')
  let dropped = 0
  one.proxy.drop = (subject) => {
    const lost = subject.endsWith(subjectOf('room:1'))
    if (lost) dropped++
    return lost
  }
  leaving.webSocket.close()
  await open(t, `${two.app.ws}/room:1/${as('comes')}`)
  // The first heartbeat that tells of them is lost, too.
  await until(() => dropped >= 3)
  t.equal(keep(watching.messages), 'alice,leaves,stays')
  one.proxy.drop = () => false
  await until(() => keep(watching.messages) === 'alice,comes,stays')
  t.notOk(watching.messages.some((text) => text.includes('"Leave"') && text.includes('stays')))
})

t.test('changes while NATS servers were disconnected from each other are noticed afterwards', async (t) => {
  const cluster = await NatsRoutes.start(t)
  const dbUri = await migrated('kept-*')
  // The first one waits long for the silent second one, which tells its changes again with some of its heartbeats.
  const one = await counted(t, dbUri, cluster.servers[0], { nodeTimeout: 60_000 })
  const two = await counted(t, dbUri, cluster.servers[1], { nodeTimeout: 2000 })
  await until(() => [one, two].every(({ app }) => app.fastify.pgws.nodes().length === 2))
  const watching = await open(t, `${one.app.ws}/room:1/${as('alice')}?presence=true`)
  const leaving = await open(t, `${two.app.ws}/room:1/${as('leaves')}`)
  await open(t, `${two.app.ws}/room:1/${as('stays')}`)
  await until(() => keep(watching.messages) === 'alice,leaves,stays')
  cluster.disconnect(0)
  leaving.webSocket.close()
  await open(t, `${two.app.ws}/room:1/${as('comes')}`)
  // Its own heartbeats come back to it. All that tell again what has changed are over.
  const before = two.all()
  await until(() => two.all() > before + 8)
  t.equal(keep(watching.messages), 'alice,leaves,stays')
  cluster.reconnect(0)
  await until(() => keep(watching.messages) === 'alice,comes,stays')
  await agree([one, two], 'room:1', 'alice,comes,stays')
  t.equal(one.app.fastify.pgws.nodes().length, 2)
})
