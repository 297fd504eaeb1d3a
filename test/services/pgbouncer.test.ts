import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import t, { type Test } from 'tap'
import { migrate } from '../../lib/schema/migrate.js'
import { command } from '../support/command.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { build, LISTEN_CHANNEL, notify, open, SECRET, token, until, withPostgres } from '../support/helper.js'

const { postgres, database } = await withPostgres(t)
const rw = token({ mode: 'rw' })

/** A free port, because PgBouncer cannot let the system choose one. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

/** Starts PgBouncer in front of the database, which it reaches over TCP. Returns its port. */
async function pooler(t: Test, mode: 'session' | 'transaction', dbUri: string): Promise<string> {
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const folder = mkdtempSync(join(tmpdir(), 'pgws-pooler-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  chmodSync(folder, 0o755)
  const port = await freePort()
  const configuration = join(folder, 'pgbouncer.ini')
  writeFileSync(join(folder, 'users.txt'), '"postgres" ""\n')
  writeFileSync(
    configuration,
    `[databases]
* = host=127.0.0.1 port=${proxy.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
auth_file = ${join(folder, 'users.txt')}
admin_users = postgres
pool_mode = ${mode}
`
  )
  // It cannot run as root.
  const user = process.getuid?.() === 0 ? ['-u', 'nobody'] : []
  const child = spawn('pgbouncer', [...user, configuration], { stdio: ['ignore', 'ignore', 'pipe'] })
  let output = ''
  child.stderr.on('data', (chunk) => {
    output += chunk
  })
  t.teardown(async () => {
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  await until(() => output.includes('process up'))
  return dbUri.replace(/^postgresql:.*\/([^/?]+)\?.*$/, `postgresql://postgres@127.0.0.1:${port}/$1`)
}

/** A database with a durable channel. */
async function durable() {
  const dbUri = await database()
  const client = new pg.Client(dbUri)
  await client.connect()
  await migrate(client, LISTEN_CHANNEL)
  await client.query(`select pgws.retain('durable', '1 hour')`)
  await client.end()
  return dbUri
}

for (const mode of ['transaction', 'session'] as const) {
  t.test(`the pool can use PgBouncer in ${mode} mode, the listener connects directly`, async (t) => {
    const listenerUri = await durable()
    const dbUri = await pooler(t, mode, listenerUri)
    const { fastify, ws, http } = await build(t, { dbUri, listenerUri, poolSize: 3 })
    const plain = await open(t, `${ws}/chat/${rw}`)
    const kept = await open(t, `${ws}/durable/${rw}`)
    const count = 200
    for (let n = 0; n < count; n++) {
      plain.send(`plain ${n}`)
      kept.send(`kept ${n}`)
    }
    const payloads = (texts: string[]) => texts.map((text) => JSON.parse(text).payload)
    const numbers = Array.from({ length: count }, (_, n) => n)
    t.same(
      payloads(await plain.received(count)),
      numbers.map((n) => `plain ${n}`)
    )
    t.same(
      payloads(await kept.received(count)),
      numbers.map((n) => `kept ${n}`)
    )
    await notify(listenerUri, JSON.stringify({ channel: 'chat', payload: 'from SQL' }))
    t.equal(JSON.parse((await plain.received(count + 1))[count]!).payload, 'from SQL')
    const headers = { authorization: `Bearer ${rw}` }
    const history = await fetch(`${http}/channels/durable/history?limit=${count}`, { headers })
    t.equal(((await history.json()) as { messages: unknown[] }).messages.length, count)
    t.equal((await fastify.pgws.health()).status, 'ok')
  })
}

t.test('a listener through PgBouncer in transaction mode is an error that says what to set', async (t) => {
  const dbUri = await pooler(t, 'transaction', await database())
  for (const checkListenerInterval of [0, 10_000]) {
    await t.rejects(build(t, { dbUri, checkListenerInterval }), {
      code: 'FST_PGWS_CANNOT_LISTEN',
      message: /listenerUri.*PGWS_LISTENER_URI/
    })
  }
})

t.test('in session mode, the listener can use PgBouncer, too', async (t) => {
  const direct = await database()
  const { ws } = await build(t, { dbUri: await pooler(t, 'session', direct) })
  const client = await open(t, `${ws}/chat/${rw}`)
  await notify(direct, JSON.stringify({ channel: 'chat', payload: 'x' }))
  t.equal(JSON.parse((await client.received(1))[0]!).payload, 'x')
})

t.test('doctor notices PgBouncer, and says what to set in transaction mode', async (t) => {
  const listenerUri = await durable()
  const doctor = (environment: Record<string, string>) =>
    command(t, ['doctor'], { PGWS_JWT_SECRET: SECRET, ...environment })
  const dbUri = await pooler(t, 'transaction', listenerUri)
  const alone = await doctor({ PGWS_DB_URI: dbUri })
  t.equal(alone.code, 1)
  t.match(alone.output, /^error +pooler +.*PgBouncer.* transaction mode: set PGWS_LISTENER_URI/m)
  t.match(alone.output, /^1 error, /m)
  const beside = await doctor({ PGWS_DB_URI: dbUri, PGWS_LISTENER_URI: listenerUri })
  t.equal(beside.code, 0, beside.output)
  t.match(beside.output, /^OK +pooler +.*PgBouncer.* transaction mode$/m)
  t.match(beside.output, /^OK +listen /m)
  const session = await doctor({ PGWS_DB_URI: await pooler(t, 'session', listenerUri) })
  t.equal(session.code, 0, session.output)
  t.match(session.output, /^OK +pooler +.*session mode$/m)
  t.match(session.output, /^OK +listen /m)
})
