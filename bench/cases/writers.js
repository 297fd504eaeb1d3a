import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { WebSocket } from 'ws'
import { startEmbeddedPostgres } from '../../dist/lib/embedded-postgres/server.js'
import { address, percentile, startServer } from '../harness.js'

/** What a writer's transaction does beside updating one of 10,000 rows. */
const PUBLISH = {
  alone: '',
  notify: `perform pg_notify('postgres-websockets-listener', json_build_object('channel', 'chat',
    'claims', json_build_object('message_delivered_at', extract(epoch from clock_timestamp())))::text);`,
  ours: `perform pgws.publish_text('chat', 'something of forty characters, as it were');`,
  // The triggers of pgws.watch() do it.
  watched: ''
}

/** How long they write, in seconds. */
const DURATION = 6

async function connect(uri) {
  const client = new pg.Client(uri)
  await client.connect()
  return client
}

/** Writers that live in the database, so that the load generator takes next to nothing. */
function write(client, what, seconds) {
  return client.query(`do $$ declare until constant timestamptz := clock_timestamp() + interval '${seconds} s';
    n integer := 0; row integer; begin
    while clock_timestamp() < until loop
      row := 1 + random() * 9999;
      update load set value = value + 1 where id = row;
      ${PUBLISH[what]}
      n := n + 1;
      commit;
    end loop;
    insert into done values (n);
  end $$`)
}

/** A reader that keeps what each message took from the writer's transaction to it. */
async function reader(port) {
  const socket = new WebSocket(`ws://127.0.0.1:${port}${address('ours', 'chat', { mode: 'r' })}`)
  await once(socket, 'open')
  const waits = []
  socket.on('message', (data) => {
    const at = /message_delivered_at"? ?: ?([\d.]+)/.exec(data.toString('latin1'))?.[1]
    if (at) waits.push(Date.now() - Number(at) * 1000)
  })
  return { socket, waits }
}

async function run(what, writers, quick) {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-bench-'))
  const postgres = await startEmbeddedPostgres({ folder, settings: { max_connections: '100' } })
  const node = await startServer('durable', postgres.uri)
  const control = await connect(postgres.uri)
  const clients = []
  try {
    await control.query(`create table load (id integer primary key, value integer not null) with (fillfactor = 50);
      insert into load select n, 0 from generate_series(1, 10000) n; create table done (count integer not null)`)
    await control.query('vacuum analyze load')
    if (what === 'watched') await control.query(`select pgws.watch('load', 'chat')`)
    const { socket, waits } = await reader(node.port)
    for (let i = 0; i < writers; i++) clients.push(await connect(postgres.uri))
    const begun = performance.now()
    await Promise.all(clients.map((client) => write(client, what, quick ? DURATION / 2 : DURATION)))
    const seconds = (performance.now() - begun) / 1000
    const { rows } = await control.query('select sum(count)::integer as sum from done')
    const [{ sum }] = rows
    const publishes = what !== 'alone'
    // A fast loss is no result.
    const deadline = Date.now() + 30_000
    while (publishes && waits.length < sum && Date.now() < deadline)
      await new Promise((r) => setTimeout(r, 50))
    if (publishes && waits.length !== sum) throw new Error(`${what}: ${waits.length} of ${sum} came`)
    socket.terminate()
    return { rate: sum / seconds, p50: percentile(waits, 0.5) ?? 0, p99: percentile(waits, 0.99) ?? 0 }
  } finally {
    for (const client of [...clients, control]) await client.end()
    await node.stop()
    await postgres.stop()
    for (const path of [folder, postgres.home, postgres.socketFolder])
      rmSync(path, { recursive: true, force: true })
  }
}

const writersCase = (count) => ({
  title: `${count} ${count === 1 ? 'writer' : 'writers'}, each transaction updates a row and publishes (fsync on), delivered to a reader`,
  servers: ['alone', 'notify', 'ours', 'watched'],
  figures: { rate: 'transactions/s', p50: 'p50 ms', p99: 'p99 ms' },
  pairs: 3,
  run: (server, _dbUri, quick) => run(server, count, quick)
})

export const writer = writersCase(1)
export const writers16 = writersCase(16)
export const writers64 = writersCase(64)
