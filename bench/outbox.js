// Publishes from SQL for long. For each minute, prints the latency at a reader, and the sizes of the tables.
//   npm run bench:outbox -- --minutes 10 --rate 2000 --idle     (an idle transaction stays open all the time)
//   npm run bench:outbox -- --minutes 30 --writers 16           (as fast as possible)
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { WebSocket } from 'ws'
import { startEmbeddedPostgres } from '../dist/lib/embedded-postgres/server.js'
import { address, percentile, startClient, startServer } from './harness.js'

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    writers: { type: 'string', default: '16' },
    // Messages per second of all writers. Default: as many as possible.
    rate: { type: 'string' },
    idle: { type: 'boolean', default: false },
    // How long messages are stored. (Messages are deleted once a minute.)
    retention: { type: 'string', default: '1 minute' }
  }
})
const minutes = Number(values.minutes)
const connections = Number(values.writers)

const folder = mkdtempSync(join(tmpdir(), 'pgws-bench-'))
const postgres = await startEmbeddedPostgres({ folder, settings: { max_connections: '100' } })
const node = await startServer('durable', postgres.uri)
const connect = async () => {
  const client = new pg.Client(postgres.uri)
  await client.connect()
  return client
}
const control = await connect()
await control.query(`create table load (id integer primary key, value integer not null) with (fillfactor = 50);
  insert into load select n, 0 from generate_series(1, 10000) n`)
await control.query(`select pgws.unretain('**'), pgws.retain('chat', $1)`, [values.retention])

const socket = new WebSocket(`ws://127.0.0.1:${node.port}${address('ours', 'chat', { mode: 'r' })}`)
await once(socket, 'open')
let waits = []
let received = 0
socket.on('message', (data) => {
  received++
  waits.push(Date.now() - Number(/message_delivered_at":([\d.]+)/.exec(data)[1]) * 1000)
})
socket.on('close', (code) => console.log(`the reader was closed: ${code}`))

const idle = values.idle ? await connect() : undefined
// With a transaction id and a snapshot, like a report that somebody forgot.
await idle?.query('begin isolation level repeatable read; update load set value = 0 where id = 1')

const writers = startClient('applications')
const text = `with changed as (update load set value = value + 1 where id = greatest($1, 2) returning id)
  select pgws.publish_text('chat', 'something of forty characters, as it were') from changed`
const interval = values.rate === undefined ? 0 : (connections * 1000) / Number(values.rate)
const done = writers.order(
  { uri: postgres.uri, connections, text, seconds: minutes * 60, interval },
  (minutes + 2) * 60_000
)

const megabytes = (bytes) => (bytes / 1e6).toFixed(1)
console.log(
  '| minute | messages | p50 ms | p99 ms | outbox MB | messages MB | of these retained | outbox: vacuums, dead |'
)
console.log('|---|---|---|---|---|---|---|---|')
let last = 0
for (let minute = 1; minute <= minutes; minute++) {
  await new Promise((resolve) => setTimeout(resolve, 60_000))
  const {
    rows: [sizes]
  } = await control.query(`select
    (select sum(pg_total_relation_size(relid)) from pg_stat_user_tables where relname ~ '^(outbox_|rounds)')::float8 as outbox,
    pg_total_relation_size('pgws.messages')::float8 as messages, (select count(*) from pgws.messages) as retained,
    (select sum(autovacuum_count) || ', ' || sum(n_dead_tup) from pg_stat_user_tables where relname ~ '^outbox_') as vacuum`)
  const figures = [percentile(waits, 0.5), percentile(waits, 0.99)].map((value) => (value ?? 0).toFixed(1))
  console.log(
    `| ${[minute, received - last, ...figures, megabytes(sizes.outbox), megabytes(sizes.messages), sizes.retained, sizes.vacuum].join(' | ')} |`
  )
  last = received
  waits = []
}
const { sent, rate } = await done
const deadline = Date.now() + 60_000
while (received < sent && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 100))
console.log(`${sent} published, ${Math.round(rate)} a second; ${received} received`)
await writers.stop()
await idle?.end()
await control.end()
await node.stop()
await postgres.stop()
for (const path of [folder, postgres.home, postgres.socketFolder])
  rmSync(path, { recursive: true, force: true })
process.exit(received === sent ? 0 : 1)
