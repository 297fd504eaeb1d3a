import { join } from 'node:path'
import t, { type Test } from 'tap'
import { FaultProxy } from '../../support/fault-proxy.js'
import {
  build,
  type Client,
  notify,
  open,
  query,
  refusal,
  token,
  until,
  withPostgres
} from '../../support/helper.js'
import { createDatabase } from '../../support/postgres.js'
import { sdk, subscribed } from '../../support/sdk.js'
import { acquainted, open as openSocketIo, startNodes } from '../../support/socket-io.js'

const { postgres } = await withPostgres(t)
const reader = token({ mode: 'r' })
const anySubject = token({ mode: 'rw', sub: 'somebody' })

/**
 * Names that a database rejects because its encoding lacks a character, or changes: EUC_JP turns ¦ into
 * another character, and needs 3 bytes for à instead of the 2 of UTF-8, so that PostgreSQL would truncate the
 * name.
 */
const ENCODINGS: Record<string, { refused: string[]; taken: string[] }> = {
  LATIN1: { refused: ['sensor:温', 'sensor:€'], taken: ['sensor:é'] },
  WIN1252: { refused: ['sensor:温', 'sensor:ł'], taken: ['sensor:€'] },
  EUC_JP: {
    refused: ['sensor:\u{1f600}', 'sensor:¦', `sensor:${'à'.repeat(28)}`],
    taken: ['sensor:温', 'sensor:à']
  },
  SQL_ASCII: { refused: [], taken: ['sensor:温'] },
  UTF8: { refused: ['sensor:\ud800'], taken: ['sensor:温', `sensor:${'à'.repeat(28)}`] }
}

/** A neighbour receives everything on one and the same connection while others join and leave. */
async function unharmed(t: Test, app: Awaited<ReturnType<typeof build>>, dbUri: string, neighbour: Client) {
  const sent = neighbour.messages.length
  await notify(dbUri, `unharmed ${sent}`, 'sensor:neighbour')
  t.equal((await neighbour.received(sent + 1))[sent], `unharmed ${sent}`)
  const { status, listener } = await app.fastify.pgws.health()
  t.match({ status, listener }, { status: 'ok', listener: { status: 'up', reconnects: 0 } })
}

/** Resolves after the next check of the listener, which covers all its channels. */
async function checked({ fastify }: Awaited<ReturnType<typeof build>>) {
  const { lastProvenAlive } = fastify.pgws.listenerState
  await until(() => fastify.pgws.listenerState.lastProvenAlive! > lastProvenAlive!)
}

for (const [encoding, { refused, taken }] of Object.entries(ENCODINGS)) {
  for (const checkListenerInterval of [200, 0]) {
    const supervised = checkListenerInterval > 0 ? 'supervised' : 'unsupervised'
    t.test(`${encoding}, ${supervised}: a name that the database rejects fails only that join`, async (t) => {
      const dbUri = await createDatabase(postgres, encoding)
      const app = await build(t, { dbUri, rawChannels: 'sensor:*', checkListenerInterval })
      const neighbour = await open(t, `${app.ws}/sensor%3Aneighbour/${reader}`)
      const centrifuge = sdk(t, app.ws, { token: anySubject })
      centrifuge.connect()
      await centrifuge.ready()

      for (const name of refused) {
        if (name.isWellFormed()) {
          const answer = await refusal(t, `${app.ws}/${encodeURIComponent(name)}/${reader}`)
          t.equal(answer.status, 400)
          t.match(JSON.parse(answer.body), { code: 'FST_PGWS_CHANNEL_REFUSED' })
          t.ok(answer.answer.includes(`channel "${name}"`), answer.answer)
          // Together with others in one token, none of them is joined.
          const both = token({ mode: 'r', channels: ['sensor:neighbour', name] })
          t.equal((await refusal(t, `${app.ws}/${both}`)).status, 400)
        }
        const { subscription } = subscribed(centrifuge, name)
        const ended = await new Promise<{ code: number }>((resolve) => {
          subscription.once('unsubscribed', resolve)
        })
        t.equal(ended.code, 107, 'bad request')
        const heard = app.fastify.pgws.listen(name, () => {})
        await t.rejects(
          heard,
          name.isWellFormed() ? { code: 'FST_PGWS_CHANNEL_REFUSED' } : { code: 'FST_PGWS_BAD_MESSAGE' }
        )
        await unharmed(t, app, dbUri, neighbour)
      }
      for (const name of taken) {
        const client = await open(t, `${app.ws}/${encodeURIComponent(name)}/${reader}`)
        await notify(dbUri, 'hello', name)
        t.same(await client.received(1), ['hello'])
      }
      if (checkListenerInterval > 0) await checked(app)
      await unharmed(t, app, dbUri, neighbour)
    })
  }
}

t.test('a channel in the options that the database rejects is an error at the start', async (t) => {
  const dbUri = await createDatabase(postgres, 'LATIN1')
  for (const options of [
    { listenChannel: '温' },
    { endpoints: [{ path: '/a', channels: ['fine', '温'] }] },
    { listenChannel: '温', checkListenerInterval: 0 }
  ]) {
    const lines: string[] = []
    await t.rejects(
      build(
        t,
        { dbUri, ...options },
        {
          server: { logger: { level: 'warn', stream: { write: (line: string) => lines.push(line) } } }
        }
      ),
      { code: 'FST_PGWS_CHANNEL_REFUSED', message: /channel "温".*LATIN1/ }
    )
    t.notMatch(lines.join(''), /could not listen/, 'the rejection says it')
  }
})

t.test('names must be well-formed text in every protocol', async (t) => {
  const dbUri = await createDatabase(postgres)
  for (const option of [
    { listenChannel: 'a\ud800' },
    { endpoints: [{ path: '/a', channels: ['\udc00'] }] }
  ]) {
    await t.rejects(build(t, { dbUri, ...option }), { code: 'FST_PGWS_INVALID_OPTION' })
  }
  const { fastify } = await build(t, { dbUri })
  await t.rejects(
    fastify.pgws.listen('\udc00a', () => {}),
    { code: 'FST_PGWS_BAD_MESSAGE' }
  )
})

t.test('after a reconnect, leaves out channels that another database rejects, and reports it', async (t) => {
  // As after a failover to a database with another encoding.
  const utf8 = await createDatabase(postgres)
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const app = await build(t, {
    dbUri: utf8,
    listenerUri: proxy.uri(utf8),
    rawChannels: 'sensor:*',
    checkListenerInterval: 200
  })
  const names = ['sensor:温', 'sensor:a', 'sensor:～', 'sensor:b', 'sensor:c']
  const clients = await Promise.all(
    names.map((name) => open(t, `${app.ws}/${encodeURIComponent(name)}/${reader}`))
  )
  const [, name] = /\/(test_\w+)/.exec(utf8)!
  const admin = (text: string) => query(postgres.uri, text)
  const reconnected = new Promise((resolve) => app.fastify.pgws.once('reconnected', resolve))
  proxy.mode = 'refuse'
  proxy.cut()
  await until(() => !app.fastify.pgws.listenerState.up)
  const renamed = () =>
    admin(
      `do $$ begin perform pg_terminate_backend(pid) from pg_stat_activity where datname = '${name}'; end $$`
    )
      .then(() => admin(`alter database ${name} rename to ${name}_old`))
      .then(
        () => true,
        () => false
      )
  await until(renamed)
  await admin(`create database ${name} encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'`)
  proxy.mode = 'pass'
  await reconnected
  const refusals = app.lines
    .map((line) => JSON.parse(line))
    .filter(({ level, channel }) => level === 50 && channel)
  t.same(
    refusals.map(({ channel }) => channel),
    ['sensor:温', 'sensor:～']
  )
  t.match(refusals[0].msg, /cannot listen to the channel "sensor:温"/)
  await checked(app)
  for (const i of [1, 3, 4]) {
    await notify(utf8, 'after', names[i])
    t.same(await clients[i]!.received(1), ['after'])
  }
  t.equal(app.fastify.pgws.listenerState.reconnects, 1)
})

t.test('Socket.IO: a dynamic namespace that the database rejects works on its own node only', async (t) => {
  const dbUri = await createDatabase(postgres, 'LATIN1')
  const nodes = await startNodes(t, dbUri, 2, {
    adapter: { heartbeatInterval: 200 },
    server: { connectionStateRecovery: {} }
  })
  for (const { io } of nodes) io.of(/^\/room-.+$/)
  const clients = await Promise.all(nodes.map((node) => openSocketIo(t, node)))
  const refused = await Promise.all(nodes.map((node) => openSocketIo(t, node, '/room-温')))
  const taken = await Promise.all(nodes.map((node) => openSocketIo(t, node, '/room-é')))
  await acquainted(nodes, '/room-é')
  // Its own node serves its clients, and the failure is reported.
  nodes[0]!.io.of('/room-温').emit('local', 1)
  await refused[0]!.received('local', 1)
  await until(() =>
    nodes[0]!.failures.some(({ message }) => message.includes('cannot listen to the channel'))
  )
  nodes[0]!.io.of('/room-é').emit('far', 1)
  await taken[1]!.received('far', 1)
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve) => setTimeout(resolve, 200))
    nodes[0]!.io.emit('all', i)
  }
  t.same(await clients[1]!.received('all', 3), [0, 1, 2])
  t.same(refused[1]!.values('local'), [])
  // The listening connections are still the first ones.
  const lost = nodes.flatMap(({ failures }) => failures).filter(({ message }) => !message.includes('room-温'))
  t.same(lost, [])
})
