import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startEmbeddedPostgres } from '../../../lib/embedded-postgres/server.js'
import { build, notify, open, token } from '../../support/helper.js'
import { createDatabase, folderOf, testPostgres } from '../../support/postgres.js'

/** One message of the protocol (https://www.postgresql.org/docs/current/protocol-message-formats.html). */
function message(type: string, body: Buffer): Buffer {
  const head = Buffer.alloc(5)
  head.write(type)
  head.writeInt32BE(4 + body.length, 1)
  return Buffer.concat([head, body])
}

const int32 = (...values: number[]) =>
  Buffer.concat(
    values.map((value) => {
      const buffer = Buffer.alloc(4)
      buffer.writeInt32BE(value)
      return buffer
    })
  )

/** The answer to a startup message: trust authentication, and a process id of the pooler's own. */
const greeting = Buffer.concat([
  message('R', int32(0)),
  message('S', Buffer.from('client_encoding\0UTF8\0')),
  message('K', int32(4711, 42)),
  message('Z', Buffer.from('I'))
])

/** A startup message for a database, with the user postgres. */
function startup(database: string): Buffer {
  const body = Buffer.concat([int32(196608), Buffer.from(`user\0postgres\0database\0${database}\0\0`)])
  return Buffer.concat([int32(4 + body.length), body])
}

/**
 * A pooler: it answers clients itself, and gives each of them a session (`session`), or all of them one
 * session, one transaction after another (`transaction`).
 */
async function pooler(t: Test, socketPath: string, database: string, mode: 'session' | 'transaction') {
  async function session(): Promise<Socket> {
    const server = connect(socketPath)
    server.write(startup(database))
    for (let seen = Buffer.alloc(0); !seen.subarray(-6).equals(Buffer.from('Z\0\0\0\x05I')); )
      seen = Buffer.concat([seen, (await once(server, 'data'))[0]])
    return server
  }
  const shared = mode === 'transaction' ? await session() : undefined
  let turn: Promise<unknown> = Promise.resolve()
  const sessions: Socket[] = shared === undefined ? [] : [shared]
  const pool = createServer(async (client) => {
    client.on('error', () => {})
    await once(client, 'data')
    const server = shared ?? (await session())
    sessions.push(server)
    client.write(greeting)
    if (mode === 'session') {
      server.pipe(client).pipe(server)
      return
    }
    client.on('data', (chunk) => {
      if (chunk[0] === 'X'.charCodeAt(0)) return
      turn = turn.then(async () => {
        server.write(chunk)
        for (;;) {
          const [answer] = (await once(server, 'data')) as [Buffer]
          client.write(answer)
          if (answer.subarray(-6).equals(Buffer.from('Z\0\0\0\x05I'))) return
        }
      })
    })
  })
  pool.listen(0, '127.0.0.1')
  await once(pool, 'listening')
  t.teardown(() => {
    for (const server of sessions) server.destroy()
    pool.close()
  })
  return `postgresql://postgres@127.0.0.1:${(pool.address() as AddressInfo).port}/${database}?sslmode=disable`
}

const postgres = await testPostgres(t)
const dbUri = await createDatabase(postgres)
const database = /\/([^/?]+)\?/.exec(dbUri)![1]!
const socketPath = join(postgres.socketFolder, '.s.PGSQL.5432')

for (const checkListenerInterval of [0, 1000]) {
  t.test(`refuses a pooler in transaction mode (interval ${checkListenerInterval})`, async (t) => {
    const uri = await pooler(t, socketPath, database, 'transaction')
    await t.rejects(build(t, { dbUri: uri, checkListenerInterval }), {
      code: 'FST_PGWS_CANNOT_LISTEN',
      message: /transaction mode.*PGWS_LISTENER_URI/
    })
  })
}

t.test('with listenerUri, the pool may use a pooler', async (t) => {
  const uri = await pooler(t, socketPath, database, 'session')
  const { fastify, ws } = await build(t, { dbUri: uri, listenerUri: dbUri })
  const client = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  await fastify.pgws.publish('a', 'through the pooler')
  await client.received(1)
})

t.test('accepts a pooler in session mode', async (t) => {
  const uri = await pooler(t, socketPath, database, 'session')
  const { ws } = await build(t, { dbUri: uri })
  const client = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  await notify(dbUri, '{"channel":"a"}')
  await client.received(1)
})

t.test('refuses a hot standby', async (t) => {
  const primary = await testPostgres(t)
  const { dataFolder } = primary
  await primary.stop()
  // The former primary, started as a standby.
  writeFileSync(join(dataFolder, 'standby.signal'), '')
  const standby = await startEmbeddedPostgres({
    folder: folderOf(primary),
    settings: { hot_standby: 'on', max_connections: '200' }
  })
  t.teardown(() => standby.stop())
  await t.rejects(build(t, { dbUri: standby.uri, checkListenerInterval: 500 }), {
    code: 'FST_PGWS_CANNOT_LISTEN',
    message: /hot standby: name the primary.*PGWS_LISTENER_URI/
  })
})
