import { join } from 'node:path'
import t from 'tap'
import { FaultProxy } from '../support/fault-proxy.js'
import { build, install, open, query, token, until, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'

const { postgres, database } = await withPostgres(t)
const rw = token({ mode: 'rw' })
const socket = join(postgres.socketFolder, '.s.PGSQL.5432')

const healthOf = async (http: string) => {
  const response = await fetch(`${http}/health`)
  const { status, reasons, bus } = (await response.json()) as {
    status: string
    reasons: string[]
    bus: { name: string; status: string }
  }
  return { code: response.status, status, reasons, bus }
}

t.test('a node with credentials that NATS rejects does not start', async (t) => {
  const server = await NatsServer.start(t, 'authorization { user: pgws, password: "right-secret" }')
  const dbUri = await database()
  await install(dbUri)
  const start = (busCredentials?: string) => build(t, { dbUri, bus: server.url, busCredentials })
  await t.rejects(start('pgws:wrong-secret'), {
    code: 'FST_PGWS_INVALID_OPTION',
    message: /PGWS_BUS_CREDENTIALS/
  })
  await t.rejects(start(), { code: 'FST_PGWS_INVALID_OPTION', message: /PGWS_BUS_CREDENTIALS.*is required/ })
  const { http, lines } = await start('pgws:right-secret')
  t.match((await healthOf(http)).bus, { name: 'nats', status: 'up' })
  t.notOk(lines.some((line) => line.includes('right-secret')))
})

t.test('if the database is available only later, such a node ends, and logs the reason', async (t) => {
  const server = await NatsServer.start(t, 'authorization { token: "right-secret" }')
  const dbUri = await database()
  await install(dbUri)
  const proxy = await FaultProxy.start(t, socket)
  proxy.mode = 'refuse'
  const lost: Error[] = []
  const { fastify, lines } = await build(
    t,
    {
      dbUri: proxy.uri(dbUri),
      bus: server.url,
      busCredentials: 'wrong-secret',
      checkListenerInterval: 1000,
      readyTimeout: 100
    },
    {
      after: async (fastify) =>
        fastify.addHook('onReady', () => fastify.pgws.once('lost', (error) => lost.push(error)))
    }
  )
  let closed = false
  fastify.server.once('close', () => {
    closed = true
  })
  proxy.mode = 'pass'
  await until(() => closed)
  t.match(lost, [{ code: 'FST_PGWS_INVALID_OPTION', message: /PGWS_BUS_CREDENTIALS/ }])
  t.ok(lines.some((line) => JSON.parse(line).level === 60 && line.includes('PGWS_BUS_CREDENTIALS')))
  t.notOk(lines.some((line) => line.includes('wrong-secret')))
})

t.test('a database without the schema is an error that says what to run', async (t) => {
  const server = await NatsServer.start(t)
  await t.rejects(build(t, { dbUri: await database(), bus: server.url }), { code: 'FST_PGWS_NOT_INSTALLED' })
})

t.test(
  'without a NATS server, a node works and is degraded, and uses the server when it starts',
  async (t) => {
    const server = await NatsServer.configure(t)
    const dbUri = await database()
    await install(dbUri)
    const { http, ws } = await build(t, { dbUri, bus: server.url, checkListenerInterval: 1000 })
    await until(async () => (await healthOf(http)).status === 'degraded')
    t.match(await healthOf(http), { code: 200, bus: { name: 'nats', status: 'away' } })
    const client = await open(t, `${ws}/a/${rw}`)
    client.send('from a client')
    await query(dbUri, `select pgws.publish('a', '"from SQL"')`)
    t.equal((await client.received(2)).length, 2)
    await server.start()
    await until(async () => (await healthOf(http)).bus.status === 'up')
    await until(async () => (await healthOf(http)).status === 'ok')
    client.send('over NATS')
    t.match(JSON.parse((await client.received(3))[2]!), { payload: 'over NATS' })
  }
)
