import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import type { QueryResult } from 'pg'
import type { Test } from 'tap'
import type { Returning } from './crowd-process.js'
import { FaultProxy } from './fault-proxy.js'
import { build, query, token, until, withPostgres } from './helper.js'
import { root } from './root.js'

const KINDS = ['websocket', 'event stream', 'sdk'] as const

/** A client, and what it has to get. */
interface Client {
  returning: Returning
  expected: string[]
}

/**
 * Few transactions besides. With a small pool, no connection is opened while the machine is busy, which may take too long
 * for a server that gives up after 5 s.
 */
const QUIET = { nodeTimeout: 120_000, checkListenerInterval: 120_000, poolSize: 2 }

/** By how much the database is delayed, in each direction, in milliseconds. */
const DELAY = 200

/** How many messages some clients have missed: more than one statement reads for them. */
const MANY = 700

const payloads = (i: number, first: number, last: number) =>
  Array.from({ length: last - first + 1 }, (_, k) => `${i}/${first + k}`)

/**
 * Makes clients, each with a channel of its own, that have had the first message of it, and missed up to four. For some
 * of them something else has happened: the ids of another database, deleted messages, a new client.
 */
async function prepare(sql: (text: string, values?: unknown[]) => Promise<QueryResult>, count: number) {
  const missed = (i: number) => (i === 1 || i === count - 1 ? MANY : (i % 4) + 1)
  await sql(
    `select pgws.publish_text('user:' || i, i || '/' || k)
     from unnest($1::int[]) with ordinality c (missed, n), lateral (select n - 1 as i) c2, lateral generate_series(0, missed) k`,
    [Array.from({ length: count }, (_, i) => missed(i))]
  )
  while ((await sql('select pgws.catch_up() as n')).rows[0].n > 0) {}
  const { rows } = await sql(
    `select substr(channel, 6)::int as i, min(position)::int as position, pgws.message_id(min(position)) as id, s.epoch
     from pgws.messages, pgws.settings s group by channel, s.epoch order by 1`
  )
  const deleted = rows.filter(({ i }) => i % 100 === 13).map(({ i }) => `user:${i}`)
  await sql(`update pgws.messages set expires_at = '-infinity' where channel = any($1)`, [deleted])
  while ((await sql('select pgws.clean()::int as n')).rows[0].n > 0) {}
  return rows.map(({ i, position, id, epoch }): Client => {
    const kind = KINDS[i % 3]!
    const all = payloads(i, 1, missed(i))
    const other = 'other'.padEnd(epoch.length, 'x')
    const lost = kind === 'sdk' ? 'not recovered' : 'HistoryGap'
    const client = (search: string, expected: string[], of = epoch) => ({
      returning: {
        kind,
        channel: `user:${i}`,
        token: token({ mode: 'r', sub: `${i}` }),
        search,
        position: { epoch: of, offset: position },
        missed: expected.length
      },
      expected
    })
    if (i % 100 === 7) return client(`?since=${id.replace(epoch, other)}`, [lost], other)
    if (i % 100 === 13) return client(`?since=${id}`, [lost])
    if (i === 21 || i === 22) return client('?last=2', payloads(i, 0, missed(i)).slice(-2))
    return client(`?since=${id}`, all)
  })
}

interface Came {
  received?: string[][]
  failure?: string
}

/**
 * Lets clients come back at once, each with a channel of its own, after they have missed messages. Checks that each gets
 * exactly its own ones, and that it takes no more than 50 transactions, which are those of the whole database.
 */
export async function reconnectStorm(t: Test, count: number): Promise<void> {
  const { postgres, migrated } = await withPostgres(t)
  const dbUri = await migrated('**')
  const proxy = await FaultProxy.start(t, `${postgres.socketFolder}/.s.PGSQL.5432`)
  const sql = (text: string, values: unknown[] = []) => query(dbUri, text, values)
  // Else the sequencer's rounds, some in each second, were counted, too.
  await sql(`select pgws.lead('another node', '1 hour')`)
  const name = new URL(dbUri.replace('@/', '@localhost/')).pathname.slice(1)

  /** Counts the transactions from the start of a server to its end, because sessions report theirs when they end. */
  async function counted(work: (app: Awaited<ReturnType<typeof build>>) => Promise<void>): Promise<number> {
    const transactions = async () => {
      await until(async () => {
        const { rowCount } = await query(postgres.uri, 'select from pg_stat_activity where datname = $1', [
          name
        ])
        return rowCount === 0
      })
      const { rows } = await query(
        postgres.uri,
        'select (xact_commit + xact_rollback)::int as n from pg_stat_database where datname = $1',
        [name]
      )
      return rows[0].n as number
    }
    const before = await transactions()
    proxy.delay = 0
    const app = await build(t, { dbUri: proxy.uri(dbUri), ...QUIET }, { backlog: 4096 })
    await work(app)
    await app.fastify.close()
    return (await transactions()) - before
  }

  const clients = await prepare(sql, count)
  let seconds = 0
  const alone = await counted(async () => {})
  const together = await counted(async ({ fastify, port }) => {
    const child = fork(join(root, 'dist/test/support/crowd-process.js'), { serialization: 'advanced' })
    t.teardown(() => child.kill('SIGKILL'))
    const answer = async () => {
      const [{ received, failure }] = (await once(child, 'message')) as [Came]
      if (failure !== undefined) throw new Error(failure)
      const wrong = clients.flatMap(({ returning: { kind, channel, search }, expected }, i) => {
        const same = JSON.stringify(received![i]) === JSON.stringify(expected)
        return same ? [] : [{ kind, channel, search, expected, received: received![i] }]
      })
      t.same(wrong.slice(0, 3), [], `${wrong.length} have received something else`)
    }
    // A database that is slow, as in a storm.
    proxy.delay = DELAY
    const begun = performance.now()
    child.send({ port, clients: clients.map(({ returning }) => returning) })
    await answer()
    seconds = (performance.now() - begun) / 1000
    // Then they are live: one of each kind.
    const some = [0, 1, 2]
    for (const i of some) clients[i]!.expected.push('live')
    child.send({ more: some })
    await Promise.all([answer(), ...some.map((i) => fastify.pgws.publish(`user:${i}`, 'live'))])
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  const transactions = together - alone
  // A client that comes later than others can share no statement with them, and a busy machine lets them come late. Of
  // statements that are not full there is one at a time.
  const allowed = 50 + Math.max(0, seconds - 10) / ((2 * DELAY) / 1000)
  t.comment(`${transactions} transactions in ${seconds.toFixed(1)} s`)
  t.ok(transactions <= allowed, `${transactions} transactions`)
}
