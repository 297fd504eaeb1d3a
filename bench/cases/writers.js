import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { WebSocket } from 'ws'
import { startEmbeddedPostgres } from '../../dist/lib/embedded-postgres/server.js'
import { address, percentile, sleep, startClient, startServer } from '../harness.js'

const UPDATE = 'update load set value = value + 1 where id = $1'
const and = (publish) => `with changed as (${UPDATE} returning id) select ${publish} from changed`

/** A writer's transaction: updates one of 10,000 rows, and publishes. */
const TRANSACTIONS = {
  alone: UPDATE,
  notify: and(`pg_notify('postgres-websockets-listener', json_build_object('channel', 'chat',
    'claims', json_build_object('message_delivered_at', extract(epoch from clock_timestamp())))::text)`),
  ours: and(`pgws.publish_text('chat', 'something of forty characters, as it were')`),
  // The triggers of pgws.watch() do it.
  watched: UPDATE
}

/** How long the writers run, in seconds. */
const DURATION = 6

async function connect(uri) {
  const client = new pg.Client(uri)
  await client.connect()
  return client
}

/** A reader that records the latency of each message, from the writer's transaction to the reader. */
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

async function run(what, { connections, interval = 0 }, quick) {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-bench-'))
  const postgres = await startEmbeddedPostgres({ folder, settings: { max_connections: '100' } })
  const node = await startServer('durable', postgres.uri)
  const control = await connect(postgres.uri)
  const writers = startClient('applications')
  try {
    await control.query(`create table load (id integer primary key, value integer not null) with (fillfactor = 50);
      insert into load select n, 0 from generate_series(1, 10000) n`)
    await control.query('vacuum analyze load')
    if (what === 'watched') await control.query(`select pgws.watch('load', 'chat')`)
    const { socket, waits } = await reader(node.port)
    const seconds = quick ? DURATION / 2 : DURATION
    const order = { uri: postgres.uri, connections, text: TRANSACTIONS[what], seconds, interval }
    const { sent, rate } = await writers.order(order)
    const expected = what === 'alone' ? 0 : sent
    // Losing messages fast is not a result.
    const deadline = Date.now() + 30_000
    while (waits.length < expected && Date.now() < deadline) await sleep(50)
    if (waits.length !== expected) throw new Error(`${what}: ${waits.length} of ${expected} came`)
    socket.terminate()
    return { rate, p50: percentile(waits, 0.5) ?? 0, p99: percentile(waits, 0.99) ?? 0 }
  } finally {
    await writers.stop()
    await control.end()
    await node.stop()
    await postgres.stop()
    for (const path of [folder, postgres.home, postgres.socketFolder])
      rmSync(path, { recursive: true, force: true })
  }
}

const WHAT = 'each transaction updates a row and publishes (fsync on), delivered to a reader'

const writersCase = (title, how) => ({
  title: `${title}, ${WHAT}`,
  servers: ['alone', 'notify', 'ours', 'watched'],
  figures: { rate: 'transactions/s', p50: 'p50 ms', p99: 'p99 ms' },
  pairs: 3,
  run: (server, _dbUri, quick) => run(server, how, quick)
})

export const writer = writersCase('1 writer', { connections: 1 })
export const writers16 = writersCase('16 writers', { connections: 16 })
export const writers64 = writersCase('64 writers', { connections: 64 })
export const writerPaced = writersCase('1 writer at 20/s', { connections: 1, interval: 50 })
