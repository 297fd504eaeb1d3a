import pg from 'pg'
import { address, sleep, startClient, startServer } from '../harness.js'
import { message } from './fan-out.js'

/** Durable channels use a separate database, so that that of other cases has no schema. */
export async function ownDatabase(dbUri) {
  const name = `durable_${process.hrtime.bigint()}`
  const client = new pg.Client(dbUri)
  await client.connect()
  await client.query(`create database ${name}`)
  await client.end()
  return dbUri.replace('/postgres?', `/${name}?`)
}

export async function connect(dbUri) {
  const client = new pg.Client(dbUri)
  await client.connect()
  return client
}

const uriFor = (server, dbUri) => (server === 'durable' ? ownDatabase(dbUri) : dbUri)

export const durablePublishing = {
  title: 'Publishing from 50 sockets to one reader, ephemeral and durable',
  servers: ['ours', 'durable'],
  figures: { rate: 'messages/s' },
  pairs: 5,
  async run(server, dbUri, quick) {
    const node = await startServer(server, await uriFor(server, dbUri))
    const client = startClient('writers')
    try {
      const { seen, seconds, failure } = await client.order({
        port: node.port,
        writers: 50,
        messages: 2000 / (quick ? 4 : 1),
        writePath: address(server, 'chat', { mode: 'w' }),
        readPath: address(server, 'chat', { mode: 'r' })
      })
      if (failure) throw new Error(`${server}: ${failure}`)
      return { rate: seen / seconds }
    } finally {
      await client.stop()
      await node.stop()
    }
  }
}

/** The bytes that the id adds to a message, whose text is shorter by them, so that both have the same size on the wire. */
const ID_BYTES = 33

const keys = (from) => Array.from({ length: 100 }, (_, i) => `key${String(from + i).padStart(9, '0')}`)

const PUBLISH = {
  ours: 'select count(pg_notify($1, x)) from unnest($2::text[]) x',
  durable: `select pgws.relay((select retention_version from pgws.settings), $1, array_fill('chat'::text, array[cardinality($2::text[])]),
    $2, array_fill(interval '1 hour', array[cardinality($2)]), $3)`
}

export const durableFanOut = {
  title:
    'Fan-out to 500 subscribers, 100 messages a transaction, ephemeral and durable (same size on the wire)',
  servers: ['ours', 'durable'],
  figures: { rate: 'deliveries/s' },
  pairs: 5,
  async run(server, dbUri, quick) {
    const uri = await uriFor(server, dbUri)
    const { port, stop } = await startServer(server, uri)
    const client = startClient('readers')
    const publisher = await connect(uri)
    try {
      const count = quick ? 2000 : 10_000
      const paths = Array(500).fill(address(server, 'chat', { mode: 'r' }))
      await client.order({ port, paths, messages: count, sample: 0.1 })
      const begun = performance.now()
      const finished = client.next()
      finished.catch(() => {})
      for (let sent = 0; sent < count; sent += 100) {
        const texts = Array.from({ length: 100 }, (_, i) => {
          const text = message('chat', sent + i)
          return server === 'durable' ? text.replace('x'.repeat(ID_BYTES), '') : text
        })
        await publisher.query({
          name: 'publish',
          text: PUBLISH[server],
          // Increasing keys, like those of the server.
          values: ['postgres-websockets-listener', texts, ...(server === 'durable' ? [keys(sent)] : [])]
        })
      }
      const { done, failure } = await finished
      if (failure) throw new Error(`${server}: ${failure}`)
      return { rate: (done * 1000) / (performance.now() - begun) }
    } finally {
      await publisher.end()
      await client.stop()
      await stop()
    }
  }
}

/** Fills a channel, in SQL. */
const fill = (client, count) =>
  client.query(
    `insert into pgws.messages (position, channel, body, expires_at)
     select nextval('pgws.positions'), 'chat', '{"event":"Message","channel":"chat","seq":"' || lpad(n::text, 9, '0')
       || '","time":"0000000000000.000","payload":"' || repeat('x', 100) || '"}', now() + interval '1 hour'
     from generate_series(1, $1::int) n`,
    [count]
  )

/** After 10 s without a transaction, a session reports its last ones (PGSTAT_IDLE_INTERVAL of PostgreSQL), in milliseconds. */
const STATISTICS_DELAY = 11_000

async function resume({ history, clients, missed }, dbUri) {
  const uri = await ownDatabase(dbUri)
  const { port, stop } = await startServer('durable', uri)
  const readers = startClient('readers')
  const client = await connect(uri)
  const monitor = await connect(dbUri)
  try {
    await fill(client, history)
    await client.query('vacuum analyze pgws.messages')
    const { rows } = await client.query(
      `select pgws.message_id(position) as id from pgws.messages order by position desc offset $1 limit 1`,
      [missed]
    )
    await client.end()
    const path = `${address('durable', 'chat', { mode: 'r' })}?since=${rows[0].id}`
    const name = /\/(durable_\d+)\?/.exec(uri)[1]
    const transactions = async () => {
      const { rows } = await monitor.query('select xact_commit from pg_stat_database where datname = $1', [
        name
      ])
      return Number(rows[0].xact_commit)
    }
    await sleep(STATISTICS_DELAY)
    const before = await transactions()
    const begun = performance.now()
    const finished = readers.order({
      port,
      paths: Array(clients).fill(path),
      messages: missed,
      atOnce: clients
    })
    await finished
    const { failure } = await readers.next()
    if (failure) throw new Error(failure)
    const elapsed = performance.now() - begun
    // A session reports its last transactions when it ends.
    await monitor.query('select pg_terminate_backend(pid, 1000) from pg_stat_activity where datname = $1', [
      name
    ])
    return { elapsed, queries: (await transactions()) - before }
  } finally {
    await client.end()
    await monitor.end()
    await readers.stop()
    await stop()
  }
}

export const resuming = {
  title: '1,000 clients resume at once, 100 messages each',
  servers: ['10,000 kept', '1,000,000 kept'],
  baseline: '10,000 kept',
  figures: { elapsed: 'ms until all are live', queries: 'transactions of the database' },
  pairs: 2,
  run: (server, dbUri, quick) =>
    resume(
      {
        history: Number(server.replace(/\D/g, '')) / (quick ? 10 : 1),
        clients: quick ? 200 : 1000,
        missed: 100
      },
      dbUri
    )
}

/** Samples the size of the table during five minutes at full speed, with a retention of 30 s. Runs only if it is named. */
export const retention = {
  title: 'Five minutes of durable publishing at full speed, 30 s kept',
  servers: ['durable'],
  baseline: 'durable',
  figures: { rate: 'messages/s', early: 'MB after 2 minutes', late: 'MB at the end', most: 'MB at most' },
  pairs: 1,
  optional: true,
  async run(server, dbUri, quick) {
    const uri = await ownDatabase(dbUri)
    const { port, stop } = await startServer(server, uri)
    const writers = startClient('writers')
    const client = await connect(uri)
    try {
      await client.query("select pgws.unretain('**'), pgws.retain('**', '30 seconds')")
      const order = { port, writers: 50, messages: 1e6 }
      const paths = {
        writePath: address(server, 'chat', { mode: 'w' }),
        readPath: address(server, 'chat', { mode: 'r' })
      }
      writers.order({ ...order, ...paths }).catch(() => {})
      const sizes = []
      const minutes = quick ? 0.5 : 5
      const begun = performance.now()
      while (performance.now() - begun < minutes * 60_000) {
        await sleep(5000)
        const { rows } = await client.query(
          "select pg_total_relation_size('pgws.messages')::float8 / 1e6 as size, (select last_value from pgws.positions)::float8 as sent"
        )
        sizes.push(rows[0])
      }
      const { sent } = sizes.at(-1)
      return {
        rate: (sent * 1000) / (performance.now() - begun),
        early: sizes[Math.floor(sizes.length * 0.4)].size,
        late: sizes.at(-1).size,
        most: Math.max(...sizes.map(({ size }) => size))
      }
    } finally {
      await client.end()
      await writers.stop()
      await stop()
    }
  }
}
