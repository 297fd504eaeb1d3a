// Connects, talks, kills the listener, restarts PostgreSQL and churns sockets at random, for some minutes, and ends
// with an account of every message. Not part of the tests:
//   npm run soak -- <minutes> [seed]
import { spawn } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { WebSocket } from 'ws'
import { startEmbeddedPostgres } from '../dist/lib/embedded-postgres/server.js'

const minutes = Number(process.argv[2] ?? 1)
let seed = Number(process.argv[3] ?? Date.now() % 1e9)
const SECRET = 'a secret for the soak test, and nothing else'
const CHANNEL = 'postgres-websockets-listener'
const CHANNELS = 10
/** The tolerance between the times of a cause and of its event, in milliseconds. */
const SLACK = 1500

console.log(`${minutes} minutes, seed ${seed}`)

/** Random numbers from 0 to 1. Each seed gives one sequence (mulberry32). */
function random() {
  seed = (seed + 0x6d2b79f5) | 0
  let value = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
  return ((value ^ (value >>> 14)) >>> 0) / 4294967296
}
const below = (count) => Math.floor(random() * count)

function token(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${part({ alg: 'HS256' })}.${part(claims)}`
  return `${input}.${createHmac('sha256', SECRET).update(input).digest('base64url')}`
}

const folder = mkdtempSync(join(tmpdir(), 'pgws-soak-'))
// With fsync, because acknowledged messages must survive that PostgreSQL is killed.
const settings = { max_connections: '200' }
let postgres = await startEmbeddedPostgres({ folder, settings })
const dbUri = postgres.uri
const port = await new Promise((resolve) => {
  const probe = createServer().listen(0, '127.0.0.1', () => {
    const { port } = probe.address()
    probe.close(() => resolve(port))
  })
})
const server = spawn(
  process.execPath,
  ['--expose-gc', fileURLToPath(new URL('../dist/cli.js', import.meta.url))],
  {
    env: {
      ...process.env,
      PGWS_DB_URI: dbUri,
      PGWS_JWT_SECRET: SECRET,
      PGWS_PORT: String(port),
      PGWS_HOST: '127.0.0.1',
      PGWS_META_CHANNEL: 'meta',
      PGWS_MIGRATE: 'true',
      PGWS_CHECK_LISTENER_INTERVAL: '1000'
    }
  }
)
server.stdout.resume()
server.stderr.pipe(process.stderr)
const ws = `ws://127.0.0.1:${port}`
const http = `http://127.0.0.1:${port}`

async function metric(name) {
  const text = await (await fetch(`${http}/metrics`)).text()
  const series = [...text.matchAll(new RegExp(`^${name}(?:\\{.*\\})? (.*)$`, 'gm'))]
  return series.reduce((sum, [, value]) => sum + Number(value), 0)
}

async function healthy() {
  for (;;) {
    const ok = await fetch(`${http}/health`).then(
      ({ status }) => status === 200,
      () => false
    )
    if (ok) return
    if (server.exitCode !== null) throw new Error(`the server has ended with ${server.exitCode}`)
    await sleep(50)
  }
}

/** For each message: { way, at, outcome, delivered }. */
const messages = new Map()
const gaps = []
let unexpected = 0
const count = (object, key) => {
  object[key] = (object[key] ?? 0) + 1
}

/** Receives every message of every channel, for the whole time. */
function audit(channel) {
  const webSocket = new WebSocket(`${ws}/${channel}/${token({ mode: 'r' })}`)
  webSocket.on('message', (data) => {
    const { event, payload } = JSON.parse(data)
    if (channel === 'meta') {
      if (event === 'ListenerReconnected')
        gaps.push({ from: Date.now() - payload.gap - SLACK, to: Date.now() + SLACK })
      return
    }
    messages.get(payload.split(' ')[0]).delivered++
  })
  webSocket.on('error', () => {})
  webSocket.on('close', (code) => {
    if (!over) {
      unexpected++
      console.error(`a reader was closed with ${code}`)
    }
  })
  return once(webSocket, 'open').then(() => webSocket)
}

/** Half of the channels are durable (`d…`). */
const anyChannel = () => `${below(2) ? 'c' : 'd'}${below(CHANNELS)}`

let lastId = 0
function newMessage(way, channel) {
  const id = `m${++lastId}`
  const durable = channel.startsWith('d')
  const message = {
    way: `${way}, ${durable ? 'durable' : 'ephemeral'}`,
    durable,
    at: Date.now(),
    outcome: 'open',
    delivered: 0
  }
  messages.set(id, message)
  return [message, `${id} ${'x'.repeat(below(4) === 0 ? below(7000) : below(200))}`]
}

let over = false

/** A socket that sends for a while, disconnects, and reconnects. */
async function talker() {
  while (!over) {
    const mine = []
    const channel = anyChannel()
    const webSocket = new WebSocket(`${ws}/${channel}/${token({ mode: 'rw' })}`)
    webSocket.on('error', () => {})
    const closed = once(webSocket, 'close').catch(() => [1006])
    if (
      (await Promise.race([once(webSocket, 'open').catch(() => 'refused'), closed.then(() => 'refused')])) ===
      'refused'
    ) {
      await sleep(50)
      continue
    }
    for (let left = below(200); left > 0 && !over && webSocket.readyState === 1; left--) {
      const [message, text] = newMessage('socket', channel)
      mine.push(message)
      webSocket.send(text)
      await sleep(below(30))
    }
    // Time for messages that wait for the database. The server closes with 1011 if it could not publish them.
    const how = below(3)
    if (how === 0) webSocket.terminate()
    else {
      for (
        let i = 0;
        i < 120 && webSocket.readyState === 1 && mine.some(({ delivered }) => delivered === 0);
        i++
      )
        await sleep(100)
      webSocket.close(1000)
    }
    const [code] = await closed
    for (const message of mine)
      message.outcome = how === 0 ? 'cut off by its sender' : code === 1000 ? 'sent' : `refused with ${code}`
  }
}

async function overHttp() {
  const authorization = `Bearer ${token({ mode: 'w' })}`
  while (!over) {
    const channel = anyChannel()
    const [message, payload] = newMessage('http', channel)
    const { status } = await fetch(`${http}/publish`, {
      method: 'POST',
      headers: { authorization, 'content-type': 'application/json' },
      body: JSON.stringify({ channel, payload })
    })
    message.outcome = status === 202 ? 'sent' : `answered ${status}`
    await sleep(below(20))
  }
}

async function inSql() {
  while (!over) {
    const client = new pg.Client({ connectionString: dbUri, query_timeout: 5000 })
    client.on('error', () => {})
    try {
      await client.connect()
      while (!over) {
        const channel = anyChannel()
        const [message, payload] = newMessage('sql', channel)
        message.outcome = 'outcome unknown in SQL'
        if (message.durable) await client.query('select pgws.publish_text($1, $2)', [channel, payload])
        else await client.query('select pg_notify($1, $2)', [CHANNEL, JSON.stringify({ channel, payload })])
        message.at = Date.now()
        message.outcome = 'sent'
        await sleep(below(20))
      }
    } catch {
      await sleep(100)
    } finally {
      client.end().catch(() => {})
    }
  }
}

const faults = {
  async 'listener terminated'() {
    await terminate('listener')
  },
  async 'publishers terminated'() {
    await terminate('publisher')
  },
  ...Object.fromEntries(
    ['SIGINT', 'SIGQUIT', 'SIGKILL'].map((signal) => [
      `PostgreSQL ended with ${signal}`,
      async () => {
        process.kill(
          Number(readFileSync(join(postgres.dataFolder, 'postmaster.pid'), 'utf8').split('\n')[0]),
          signal
        )
        await sleep(below(3000))
        await postgres.stop()
        postgres = await startEmbeddedPostgres({ folder, settings })
      }
    ])
  )
}

async function terminate(which) {
  const client = new pg.Client(dbUri)
  await client.connect()
  await client.query(
    'select pg_terminate_backend(pid) from pg_stat_activity where application_name like $1',
    [`%${which}`]
  )
  await client.end()
}

const done = {}
async function fault() {
  while (!over) {
    await sleep(2000 + below(6000))
    const name = Object.keys(faults)[below(Object.keys(faults).length)]
    if (over) return
    count(done, name)
    await faults[name]()
    await healthy()
  }
}

await healthy()
const admin = new pg.Client(dbUri)
await admin.connect()
await admin.query("select pgws.retain('d*', '1 minute')")
await admin.end()
const readers = await Promise.all(
  ['meta', ...Array.from({ length: CHANNELS }, (_, i) => [`c${i}`, `d${i}`]).flat()].map(audit)
)
const talkers = Array.from({ length: 40 }, talker)
await sleep(Math.min(10_000, (minutes * 60_000) / 4))
const memoryBefore = await metric('process_resident_memory_bytes')
const end = sleep(minutes * 60_000)
const all = [fault(), overHttp(), inSql(), ...talkers]
await Promise.race([end, ...all.map((part) => part.then(() => end))])
over = true
await Promise.all(all)
await healthy()
await sleep(2000)
const memoryAfter = await metric('process_resident_memory_bytes')
const sockets = await metric('pgws_connections')
for (const webSocket of readers) webSocket.terminate()
await sleep(200)
const handles = await metric('nodejs_active_resources_total')

const account = {}
for (const { way, durable, at, outcome, delivered } of messages.values()) {
  account[way] ??= { sent: 0, delivered: 0, duplicated: 0, lost: {} }
  const row = account[way]
  row.sent++
  if (delivered > 0) row.delivered++
  if (delivered > 1) row.duplicated++
  if (delivered > 0) continue
  const inGap = gaps.some(({ from, to }) => at >= from && at <= to)
  const reason =
    outcome !== 'sent' ? outcome : inGap && !durable ? 'sent while the listener was away' : 'unexplained'
  count(row.lost, reason)
}
console.log({ faults: done, gaps: gaps.length })
console.dir(account, { depth: 4 })
console.log(
  `memory ${Math.round(memoryBefore / 1e6)} MB at the start, ${Math.round(memoryAfter / 1e6)} MB at the end; ` +
    `${sockets} sockets (${readers.length} readers), ${handles} handles after all have gone`
)
server.kill('SIGTERM')
const [code] = await once(server, 'exit')
await postgres.stop()
for (const path of [folder, postgres.home, postgres.socketFolder])
  rmSync(path, { recursive: true, force: true })
const bad = Object.values(account).some(({ duplicated, lost }) => duplicated > 0 || lost.unexplained > 0)
if (bad || unexpected > 0 || code !== 0) {
  console.error('FAILED: something was lost without a reason, came twice, or the server did not end in order')
  process.exitCode = 1
}
process.exit()
