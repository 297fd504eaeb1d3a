import pg from 'pg'
import { address, percentile, sleep, startClient, startServer } from '../harness.js'
import { publish } from './fan-out.js'

/** Addresses in 100 channels, each with a token that expires in an hour. */
function crowd(server, count) {
  const exp = Math.floor(Date.now() / 1000) + 3600
  return Array.from({ length: count }, (_, i) =>
    address(server, `channel-${i % 100}`, { mode: 'rw', sub: `user-${i}`, exp })
  )
}

export const connecting = {
  title: 'Connecting: token, upgrade, join',
  servers: ['bare', 'ours'],
  figures: { cpu: 'µs of CPU a connection' },
  pairs: 5,
  async run(server, dbUri, quick) {
    const { port, ask, stop } = await startServer(server, dbUri)
    const client = startClient('crowd')
    try {
      const paths = crowd(server, quick ? 1000 : 4000)
      // The first connections warm up the code.
      await client.order({ port, paths })
      await sleep(300)
      const before = await ask('cpu')
      await client.order({ port, paths })
      await sleep(300)
      return { cpu: ((await ask('cpu')) - before) / paths.length }
    } finally {
      await client.stop()
      await stop()
    }
  }
}

export const idle = {
  title: '10,000 connections with tokens that expire, pinged every 30 s (both servers at the same time)',
  servers: ['bare', 'ours'],
  figures: { memory: 'KB a connection', cpu: '% CPU at rest' },
  pairs: 1,
  async runAll(servers, dbUri, quick) {
    const count = quick ? 2000 : 10_000
    const started = []
    try {
      for (const name of servers) {
        const server = await startServer(name, dbUri)
        started.push(server)
        const paths = crowd(name, count)
        // The first connections warm up code and pools, so that only connections are counted.
        const first = startClient('crowd')
        started.push(first)
        await first.order({ port: server.port, paths: paths.slice(0, 1000) })
        const before = await server.ask('memory')
        const client = startClient('crowd')
        started.push(client)
        await client.order({ port: server.port, paths })
        server.memory = ((await server.ask('memory')) - before) / count / 1024
      }
      const nodes = started.filter((process) => process.ask)
      await sleep(2000)
      const begun = performance.now()
      const before = await Promise.all(nodes.map(({ ask }) => ask('cpu')))
      // Two rounds of pings.
      await sleep(quick ? 5000 : 60_000)
      const after = await Promise.all(nodes.map(({ ask }) => ask('cpu')))
      const elapsed = (performance.now() - begun) * 1000
      return nodes.map(({ memory }, i) => ({ memory, cpu: ((after[i] - before[i]) / elapsed) * 100 }))
    } finally {
      for (const { stop } of started) await stop()
    }
  }
}

/** How often they reconnect, because one storm has few messages that wait. */
const STORMS = 12

/** The time before and between storms, in milliseconds. */
const CALM = 1000

export const storm = {
  title: '1,000 clients reconnect at once while 500 others get 500 messages/s each',
  servers: ['limit', 'ours'],
  figures: { calm: 'p99 ms before', storm: 'p99 ms during', ratio: 'ratio' },
  pairs: 3,
  async run(server, dbUri, quick) {
    const { port, stop } = await startServer(server, dbUri)
    const readers = startClient('readers')
    const client = startClient('crowd')
    const publisher = new pg.Client(dbUri)
    try {
      const storms = quick ? 1 : STORMS
      // A storm takes some 1.6 s, because a connection that found no place in the backlog is tried again after a second.
      const seconds = (storms * (CALM + 2000)) / 1000
      const total = seconds * 500
      const paths = Array(500).fill(address(server, 'chat', { mode: 'r' }))
      await readers.order({ port, paths, messages: total, sample: 0.1 })
      const others = crowd(server, 1000)
      await client.order({ port, paths: others })
      await publisher.connect()
      const finished = readers.next()
      finished.catch(() => {})
      const now = () => performance.timeOrigin + performance.now()
      const publishing = publish(publisher, server, { channels: ['chat'], total, batch: 1, perSecond: 500 })
      const calms = []
      const reconnects = []
      for (let i = 0; i < storms; i++) {
        const calm = now()
        await sleep(CALM)
        const begun = now()
        await client.order({ port, paths: others, atOnce: others.length })
        calms.push([calm + CALM / 3, begun])
        reconnects.push([begun, now()])
      }
      await publishing
      const { failure, latencies } = await finished
      if (failure) throw new Error(`${server}: ${failure}`)
      const [calm, storm] = [calms, reconnects].map((times) => {
        const waits = latencies
          .filter(([came, wait]) => times.some(([begun, ended]) => came >= begun && came - wait <= ended))
          .map(([, wait]) => wait)
        return percentile(waits, 0.99)
      })
      return { calm, storm, ratio: storm / calm }
    } finally {
      await publisher.end()
      await readers.stop()
      await client.stop()
      await stop()
    }
  }
}
