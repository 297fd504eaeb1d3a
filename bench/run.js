// Runs each case against us, the limit and the naive loop, in turns, and prints medians and ratios.
// Writes bench/results.md where it ran every case whole.
//   npm run bench -- [--quick] [case …]
import { fork } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { startEmbeddedPostgres } from '../dist/lib/embedded-postgres.js'

const LISTEN_CHANNEL = 'postgres-websockets-listener'
const SECRET = 'the secret of the benchmark only'
const DEADLINE = 60_000
const here = dirname(fileURLToPath(import.meta.url))
const words = process.argv.slice(2)
const quick = words.includes('--quick')
const wanted = words.filter((word) => !word.startsWith('--'))
const PAIRS = quick ? 2 : 7

function sign(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${part({ alg: 'HS256' })}.${part(claims)}`
  return `${input}.${createHmac('sha256', SECRET).update(input).digest('base64url')}`
}
const token = sign({ mode: 'rw' })

/** A message of some 200 bytes, with fixed places for what the readers look at. */
const message = (channel, sequence) =>
  `{"channel":"${channel}","seq":"${String(sequence).padStart(9, '0')}","time":"${Date.now()}","payload":"${'x'.repeat(120)}"}`

const CASES = {
  burst: {
    title: 'Fan-out to 500 subscribers, 100 notifications a transaction (deliveries/s)',
    servers: ['limit', 'ours', 'naive'],
    readers: Array(500).fill('chat'),
    messages: (server) => (server === 'naive' ? 500 : 10_000),
    batch: 100
  },
  single: {
    title: 'Fan-out to 500 subscribers, one notification a transaction, full speed (deliveries/s)',
    servers: ['limit', 'ours', 'naive'],
    readers: Array(500).fill('chat'),
    messages: (server) => (server === 'naive' ? 500 : 4000),
    batch: 1
  },
  paced: {
    title: 'Fan-out to 500 subscribers, 500 messages/s (latency)',
    servers: ['limit', 'ours'],
    readers: Array(500).fill('chat'),
    messages: () => 1500,
    batch: 1,
    perSecond: 500
  },
  channels: {
    title: '1,000 sockets, each on its own channel, 20,000 messages over them (deliveries/s)',
    servers: ['limit', 'ours', 'naive'],
    readers: Array.from({ length: 1000 }, (_, i) => `channel-${i}`),
    messages: () => 20,
    batch: 100
  },
  publish: {
    title: 'Publishing from 50 sockets to one reader (messages/s)',
    servers: ['one-query', 'ours', 'naive'],
    run: publishOnce,
    writers: 50,
    messages: (server) => (server === 'ours' ? 2000 : 300)
  }
}

async function publishOnce(server, { writers, messages }, dbUri) {
  const env = { ...process.env, DB_URI: dbUri, SECRET, LISTEN_CHANNEL }
  const child = fork(join(here, 'servers', `${server}.js`), { env })
  const client = fork(join(here, 'writers.js'))
  try {
    const [{ port }] = await once(child, 'message')
    const tokens = { writeToken: sign({ mode: 'w' }), readToken: sign({ mode: 'r' }) }
    client.send({ port, writers, messages: messages(server), ...tokens })
    const late = setTimeout(() => client.kill(), DEADLINE)
    const [result] = await Promise.race([once(client, 'message'), once(client, 'exit')])
    clearTimeout(late)
    if (result?.seen === undefined) throw new Error(`${server}: messages are missing after ${DEADLINE} ms`)
    // The naive loop has several queries under way at once, and so loses the order: that is a result, too.
    if (result.failure && server !== 'naive') throw new Error(`${server}: ${result.failure}`)
    return { rate: result.seen / result.seconds, p50: Number.NaN, p99: Number.NaN }
  } finally {
    client.kill()
    child.kill('SIGKILL')
  }
}

async function runOnce(server, { readers, messages, batch, perSecond }, dbUri) {
  const env = { ...process.env, DB_URI: dbUri, SECRET, LISTEN_CHANNEL }
  const child = fork(join(here, 'servers', `${server}.js`), { env })
  const client = fork(join(here, 'readers.js'))
  const publisher = new pg.Client(dbUri)
  try {
    const [{ port }] = await once(child, 'message')
    const count = messages(server)
    client.send({ port, paths: readers.map((channel) => `/${channel}/${token}`), messages: count })
    await once(client, 'message')
    await publisher.connect()
    const channels = [...new Set(readers)]
    const finished = once(client, 'message')
    const begun = performance.now()
    const total = count * channels.length
    for (let sent = 0; sent < total; ) {
      const texts = []
      for (let i = 0; i < batch && sent < total; i++, sent++)
        texts.push(message(channels[sent % channels.length], sent))
      const query = 'select count(pg_notify($1, x)) from unnest($2::text[]) x'
      await publisher.query({ name: 'notify', text: query, values: [LISTEN_CHANNEL, texts] })
      if (perSecond) {
        const ahead = (sent * 1000) / perSecond - (performance.now() - begun)
        if (ahead > 0) await new Promise((resolve) => setTimeout(resolve, ahead))
      }
    }
    const late = setTimeout(() => client.kill(), DEADLINE)
    const [result] = await Promise.race([
      finished,
      once(client, 'exit').then(() => {
        throw new Error(`${server}: messages are missing after ${DEADLINE} ms`)
      })
    ])
    clearTimeout(late)
    // A fast loss is no result.
    if (result.failure) throw new Error(`${server}: ${result.failure}`)
    const seconds = (performance.now() - begun) / 1000
    const latencies = result.latencies.sort((a, b) => a - b)
    const percentile = (p) => latencies[Math.floor((latencies.length - 1) * p)]
    return { rate: result.done / seconds, p50: percentile(0.5), p99: percentile(0.99) }
  } finally {
    await publisher.end()
    client.kill()
    child.kill('SIGKILL')
  }
}

async function version() {
  const client = new pg.Client(postgres.uri)
  await client.connect()
  const { rows } = await client.query('select version()')
  await client.end()
  return rows[0].version
}

const report = []
function print(line) {
  console.log(line)
  report.push(line)
}

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)]
const folder = mkdtempSync(join(tmpdir(), 'pgws-bench-'))
const postgres = await startEmbeddedPostgres({
  folder,
  settings: { fsync: 'off', synchronous_commit: 'off' }
})
try {
  for (const [name, test] of Object.entries(CASES)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    print(`\n## ${test.title}\n`)
    const results = Object.fromEntries(test.servers.map((server) => [server, []]))
    for (let pair = 0; pair < PAIRS; pair++) {
      for (const server of test.servers)
        results[server].push(await (test.run ?? runOnce)(server, test, postgres.uri))
    }
    const medians = (server) =>
      ['rate', 'p50', 'p99'].map((figure) => median(results[server].map((result) => result[figure])))
    const [rate] = medians('ours')
    print('| server | rate | p50 ms | p99 ms | ours : it (rate) |\n|---|---|---|---|---|')
    const shown = (value) => (Number.isFinite(value) ? value : '')
    for (const server of test.servers) {
      const [itsRate, p50, p99] = medians(server)
      const count = Math.round(itsRate).toLocaleString('en')
      print(`| ${server} | ${count} | ${shown(p50)} | ${shown(p99)} | ${(rate / itsRate).toFixed(2)} |`)
    }
  }
  if (!quick && wanted.length === 0) {
    const [{ model }] = cpus()
    const about = `${cpus().length} × ${model}, Node.js ${process.version}, ${(await version()).split(' on ')[0]}`
    const head = [
      '# Results',
      '',
      'Written by `npm run bench`. Database, server and load share the machine, so only the ratios mean anything.',
      `Medians of ${PAIRS} runs in turns. ${about}.`
    ]
    writeFileSync(join(here, 'results.md'), `${[...head, ...report].join('\n')}\n`)
    await import('./chart.js')
  }
} finally {
  await postgres.stop()
  for (const path of [folder, dirname(postgres.dataFolder), postgres.socketFolder])
    rmSync(path, { recursive: true, force: true })
}
