import { once } from 'node:events'
import pg from 'pg'
import t from 'tap'
import { migrate } from '../../../lib/schema/migrate.js'
import {
  build,
  LISTEN_CHANNEL,
  notify,
  open,
  query,
  token,
  until,
  withPostgres
} from '../../support/helper.js'
import { majorVersion } from '../../support/postgres.js'
import { startNodes } from '../../support/socket-io.js'

const { postgres, database } = await withPostgres(t)
const major = await majorVersion(postgres)
const reader = token({ mode: 'r' })

/** A database for a role with short timeouts for idle sessions and for statements. */
async function impatient(): Promise<string> {
  const dbUri = await database()
  await query(
    dbUri,
    `do $$ begin
       if not exists (select from pg_roles where rolname = 'impatient') then create role impatient login superuser; end if;
     end $$;
     alter role impatient set idle_in_transaction_session_timeout = '300ms';
     alter role impatient set lock_timeout = '300ms';
     alter role impatient set statement_timeout = '2s'`
  )
  if (major >= 14) await query(dbUri, "alter role impatient set idle_session_timeout = '300ms'")
  if (major >= 17) await query(dbUri, "alter role impatient set transaction_timeout = '1s'")
  return dbUri.replace('postgres@', 'impatient@')
}

/** Resolves when the database has ended another session of the role, which is idle from now on. */
async function ended(dbUri: string): Promise<void> {
  const client = new pg.Client(dbUri)
  // The closed connection causes another error later.
  client.on('error', () => {})
  // The error may arrive together with the end of the handshake.
  const failed = once(client, 'error')
  await client.connect()
  // PostgreSQL 13 ends idle sessions only within a transaction.
  if (major < 14) await client.query('begin')
  const [error] = await failed
  if (error.code !== (major < 14 ? '25P03' : '57P05')) throw error
}

/** The sessions that listen. */
async function listeners(dbUri: string): Promise<number[]> {
  const { rows } = await query(
    dbUri.replace('impatient@', 'postgres@'),
    `select pid from pg_stat_activity
     where datname = current_database() and application_name like '% listener' order by pid`
  )
  return rows.map(({ pid }) => pid)
}

for (const checkListenerInterval of [0, 60_000]) {
  t.test(`timeouts of the role do not end a listener, check every ${checkListenerInterval} ms`, async (t) => {
    const dbUri = await impatient()
    const { fastify, ws } = await build(t, { dbUri, checkListenerInterval, rawChannels: 'raw' })
    const client = await open(t, `${ws}/raw/${reader}`)
    const lost: Error[] = []
    fastify.pgws.on('lost', (error) => lost.push(error))
    await ended(dbUri)
    await notify(dbUri, 'still here', 'raw')
    t.same(await client.received(1), ['still here'])
    t.same(lost, [])
    t.equal(fastify.pgws.listenerState.reconnects, 0)
    t.equal((await listeners(dbUri)).length, 1)
  })
}

t.test('the lock_timeout of the role does not end a migration that waits for another', async (t) => {
  const dbUri = await impatient()
  const holder = new pg.Client(dbUri.replace('impatient@', 'postgres@'))
  await holder.connect()
  await migrate(holder, LISTEN_CHANNEL)
  await holder.query('begin; lock table pgws.settings in share row exclusive mode')
  const started = build(t, { dbUri, migrate: true, checkListenerInterval: 0, retries: 1 })
  started.catch(() => {})
  await ended(dbUri)
  await holder.end()
  const { fastify } = await started
  t.equal((await fastify.pgws.health()).status, 'ok')
})

t.test("the role's timeouts do not end the Socket.IO adapter's listener", async (t) => {
  const dbUri = await impatient()
  const nodes = await startNodes(t, dbUri, 2, { adapter: { heartbeatInterval: 60_000 } })
  const before = await listeners(dbUri)
  await ended(dbUri)
  const heard: unknown[] = []
  nodes[1]!.io.on('ping', (value) => heard.push(value))
  // The adapter does not protect the application's pool. The role's timeout may end its connections within a statement.
  await until(async () => {
    nodes[0]!.io.serverSideEmit('ping', 'still here')
    await new Promise((resolve) => setTimeout(resolve, 50))
    return heard.length > 0
  })
  t.equal(before.length, 2)
  t.same(await listeners(dbUri), before)
})
