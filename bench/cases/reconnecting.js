import { address, sleep, startClient, startServer } from '../harness.js'
import { connect, ownDatabase } from './durable.js'

/** The number of messages that each client has missed. */
const MISSED = 3

const channelOf = (i) => `user-${String(i).padStart(5, '0')}`

/** Publishes a message that the client has, and those that it missed, to each channel. Returns the ids of the former. */
async function fill(client, count) {
  await client.query(
    `insert into pgws.messages (position, channel, body, expires_at)
     select nextval('pgws.positions'), channel, '{"event":"Message","channel":"' || channel || '","seq":"' || lpad(n::text, 9, '0')
       || '","time":"0000000000000.000","payload":"' || repeat('x', 100) || '"}', now() + interval '1 hour'
     from generate_series(0, $1::int - 1) i, lateral (select 'user-' || lpad(i::text, 5, '0') as channel) c,
       generate_series(0, $2::int) n order by n, i`,
    [count, MISSED]
  )
  await client.query('vacuum analyze pgws.messages')
  // The rounds of a sequencer do not count.
  await client.query("select pgws.lead('no server', '1 hour')")
  const { rows } = await client.query(
    'select pgws.message_id(min(position)) as id from pgws.messages group by channel order by channel'
  )
  return rows.map(({ id }) => id)
}

/** The number of transactions of a database. Sessions report theirs when they end, so the server must have ended. */
async function transactionsOf(monitor, dbUri) {
  const [, name] = /\/(durable_\d+)\?/.exec(dbUri)
  for (;;) {
    const { rowCount } = await monitor.query('select from pg_stat_activity where datname = $1', [name])
    if (rowCount === 0) break
    await sleep(100)
  }
  const { rows } = await monitor.query('select xact_commit from pg_stat_database where datname = $1', [name])
  return Number(rows[0].xact_commit)
}

/** @returns the time until all clients receive new messages, in milliseconds */
async function reconnect(server, dbUri, paths, messages) {
  const { port, stop } = await startServer(server, dbUri)
  const first = startClient('crowd')
  const readers = startClient('readers')
  try {
    // The first connections warm up the code.
    await first.order({ port, paths: paths.slice(0, 500).map((path) => path.replace(/\?.*/, '')) })
    await sleep(500)
    const begun = performance.now()
    await readers.order({ port, paths, messages, atOnce: paths.length })
    if (messages > 0) {
      const { failure } = await readers.next()
      if (failure) throw new Error(`${server}: ${failure}`)
    }
    return performance.now() - begun
  } finally {
    await first.stop()
    await readers.stop()
    await stop()
  }
}

export const reconnecting = {
  title: `10,000 clients with a channel each reconnect at once; each has missed ${MISSED} messages`,
  servers: ['bare', 'durable'],
  baseline: 'durable',
  figures: { elapsed: 'ms until all are live', transactions: 'transactions of the database' },
  pairs: 3,
  async run(server, dbUri, quick) {
    const count = quick ? 2000 : 10_000
    const paths = Array.from({ length: count }, (_, i) => address(server, channelOf(i), { mode: 'r' }))
    if (server === 'bare') return { elapsed: await reconnect(server, dbUri, paths, 0), transactions: 0 }
    const uri = await ownDatabase(dbUri)
    // It installs the schema.
    await (await startServer(server, uri)).stop()
    const client = await connect(uri)
    const ids = await fill(client, count)
    await client.end()
    const monitor = await connect(dbUri)
    try {
      const before = await transactionsOf(monitor, uri)
      await (await startServer(server, uri)).stop()
      const started = await transactionsOf(monitor, uri)
      const resuming = paths.map((path, i) => `${path}?since=${ids[i]}`)
      const elapsed = await reconnect(server, uri, resuming, MISSED)
      const transactions = (await transactionsOf(monitor, uri)) - started - (started - before)
      return { elapsed, transactions }
    } finally {
      await monitor.end()
    }
  }
}
