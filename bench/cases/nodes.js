// What a cluster costs the database: one real node, the sequencer, with one real client, and others that only hear. A
// simulated node is a connection to the database that listens to what a node listens to and, over NATS, a connection that
// subscribes to what a node subscribes to (see ../clients/quiet-nodes.js).
import { readdirSync, readFileSync } from 'node:fs'
import { Subjects } from '../../dist/lib/bus/nats-wire.js'
import {
  ANNOUNCEMENTS_CHANNEL,
  nodeChannelOf,
  REVOCATIONS_CHANNEL,
  SETTINGS_CHANNEL,
  VACANCY_CHANNEL
} from '../../dist/lib/postgres/own-channels.js'
import {
  arrived,
  busOf,
  CHANNEL,
  LISTEN_CHANNEL,
  PREFIX,
  STATEMENTS,
  startReader,
  WRITERS
} from '../cluster.js'
import { percentile, sleep, startClient, startServer } from '../harness.js'
import { natsVersion, startNats } from '../servers/nats.js'
import { connect, ownDatabase } from './durable.js'

/** The database channels of a node. */
const DATABASE_CHANNELS = [
  LISTEN_CHANNEL,
  nodeChannelOf(LISTEN_CHANNEL),
  SETTINGS_CHANNEL,
  ANNOUNCEMENTS_CHANNEL,
  REVOCATIONS_CHANNEL,
  VACANCY_CHANNEL
]

/** The number of processes for the simulated nodes. */
const PROCESSES = 2

/** How the writers publish: `batch` messages in each transaction, `interval` in milliseconds; 0: at full speed. */
const LOADS = {
  paced: { connections: 1, batch: 1, interval: 5 },
  single: { connections: 1, batch: 1, interval: 0 },
  many: { connections: WRITERS, batch: 1, interval: 0 },
  batches: { connections: 1, batch: 100, interval: 0 }
}

/** "NATS, 64 nodes, one interested" */
const rowOf = ({ bus, nodes, interested }) =>
  `${bus}, ${nodes} ${nodes === 1 ? 'node' : 'nodes'}${interested === undefined ? '' : `, ${interested} interested`}`
const sizes = [1, 4, 16, 64]
// Without another bus, every node receives everything.
const rows = [
  ...sizes.map((nodes) => ({ bus: 'pg_notify', nodes })),
  ...sizes.map((nodes) => ({ bus: 'NOTIFY', nodes })),
  ...(natsVersion() === undefined
    ? []
    : [
        ...sizes.map((nodes) => ({ bus: 'NATS', nodes, interested: 'all' })),
        ...sizes.slice(1).map((nodes) => ({ bus: 'NATS', nodes, interested: 'one' }))
      ])
]
const ROWS = new Map(rows.map((row) => [rowOf(row), row]))

/** The CPU time of PostgreSQL's processes up to now, in microseconds: schedstat of proc(5) counts nanoseconds. */
function cpuOf(postmaster) {
  let total = 0
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const [, parent] = /^\d+ \(.*\) \S (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, 'latin1'))
      if (parent !== postmaster && pid !== postmaster) continue
      total += Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0]) / 1000
    } catch {
      // It has ended in the meantime.
    }
  }
  return total
}

async function postmasterOf(client) {
  const { rows } = await client.query('show data_directory')
  return readFileSync(`${rows[0].data_directory}/postmaster.pid`, 'latin1').split('\n')[0]
}

/** What a node subscribes to that has joined a channel. */
function subjectsOf(node, channel) {
  const subjects = new Subjects(PREFIX)
  return [subjects.channel(channel), subjects.beats, subjects.all, subjects.node(node)]
}

async function startQuietNodes({ nodes, interested }, uri, nats) {
  const others = nodes - 1
  const processes = Math.min(PROCESSES, others)
  const clients = Array.from({ length: processes }, () => startClient('quiet-nodes'))
  try {
    for (const [i, client] of clients.entries()) {
      const own = Math.floor((others + i) / processes)
      const subjects = Array.from({ length: own }, (_, n) =>
        subjectsOf(`quiet-${i}-${n}`, interested === 'all' ? CHANNEL : `channel-${i}-${n}`)
      )
      await client.order({
        uri,
        channels: DATABASE_CHANNELS,
        nodes: own,
        bus: nats && { port: nats.port, subjects }
      })
    }
  } catch (error) {
    for (const client of clients) await client.stop()
    throw error
  }
  return {
    /** For each node, the bytes that came from the database and from the bus. */
    async heard() {
      const answers = await Promise.all(clients.map((client) => client.order({})))
      for (const { failure } of answers) if (failure) throw new Error(failure)
      return answers.flatMap(({ heard }) => heard)
    },
    async stop() {
      for (const client of clients) await client.stop()
    }
  }
}

const sumOf = (numbers) => numbers.reduce((sum, number) => sum + number, 0)

/** Fails if simulated nodes did not hear what they should, or heard what they should not. */
function check({ bus, interested }, messages, before, after) {
  const source = bus === 'NATS' ? 'bus' : 'database'
  for (const [i, counts] of after.entries()) {
    const bytes = counts[source] - before[i][source]
    const least = messages * 100
    if (interested === 'one' ? bytes >= least : bytes < least)
      throw new Error(`a simulated node got ${bytes} bytes for ${messages} messages`)
  }
}

async function run(name, dbUri, quick) {
  const row = ROWS.get(name)
  const uri = await ownDatabase(dbUri)
  const nats = row.bus === 'NATS' ? await startNats() : undefined
  const started = nats ? [nats] : []
  const control = await connect(dbUri)
  try {
    const node = await startServer('node', uri, busOf(nats))
    started.push(node)
    const quiet = await startQuietNodes(row, uri, nats)
    started.push(quiet)
    const publishers = startClient('publishers')
    started.push(publishers)
    await publishers.order({ uri, connections: WRITERS })
    const reader = await startReader(node.port)
    const postmaster = await postmasterOf(control)
    const text = STATEMENTS[row.bus]
    /** The messages so far, the CPU time of the database and of the real node, and the bytes of all nodes. */
    const state = async () => ({
      seen: reader.seen,
      cpu: cpuOf(postmaster),
      node: await node.ask('cpu'),
      own: await node.ask('received'),
      heard: await quiet.heard()
    })
    const results = {}
    for (const [load, how] of Object.entries(LOADS)) {
      const order = { name: 'publish', text, ...how }
      // Each connection prepares its statement, and idle parts wake up.
      await arrived(
        reader,
        (await publishers.order({ ...order, interval: 0, seconds: quick ? 0 : 0.2 })).sent
      )
      await sleep(100)
      reader.waits.length = 0
      const before = await state()
      const begun = performance.timeOrigin + performance.now()
      const { sent } = await publishers.order({ ...order, seconds: quick ? 0.7 : 2 })
      await arrived(reader, sent)
      const elapsed = reader.lastAt - begun
      const after = await state()
      const messages = after.seen - before.seen
      check(row, messages, before.heard, after.heard)
      const others = sumOf(after.heard.map(({ database }, i) => database - before.heard[i].database))
      results[load] = {
        rate: (messages * 1000) / elapsed,
        p50: percentile(reader.waits, 0.5),
        p99: percentile(reader.waits, 0.99),
        cpu: (after.cpu - before.cpu) / messages,
        node: (after.node - before.node) / messages,
        bytes: (after.own - before.own + others) / messages
      }
    }
    reader.socket.terminate()
    return results
  } finally {
    for (const { stop } of started.reverse()) await stop()
    await control.query(`drop database ${/\/(durable_\d+)\?/.exec(uri)[1]} with (force)`)
    await control.end()
  }
}

const latencies = { p50: 'p50 ms', p99: 'p99 ms' }
const costs = {
  cpu: 'database, µs of CPU a message',
  node: 'real node, µs of CPU a message',
  bytes: 'bytes from the database a message'
}
const atFullSpeed = { rate: 'messages/s', ...latencies, ...costs }

export const nodes = {
  servers: [...ROWS.keys()],
  baseline: rowOf(rows.at(-1)),
  pairs: 3,
  unavailable:
    process.platform === 'linux'
      ? undefined
      : 'nodes: left out, because the CPU time is read from /proc, which only Linux has',
  note:
    natsVersion() === undefined
      ? 'Rows of NATS are left out, because the program `nats-server` is not installed.'
      : undefined,
  tables: [
    {
      of: 'paced',
      title: '1 to 64 nodes: 200 messages/s, one a transaction',
      figures: { ...latencies, ...costs }
    },
    {
      of: 'single',
      title: '1 to 64 nodes: 1 writer at full speed, one message a transaction',
      figures: atFullSpeed
    },
    {
      of: 'many',
      title: '1 to 64 nodes: 16 writers at full speed, one message a transaction',
      figures: atFullSpeed
    },
    {
      of: 'batches',
      title: '1 to 64 nodes: 1 writer at full speed, 100 messages a transaction',
      figures: atFullSpeed
    }
  ],
  run
}
