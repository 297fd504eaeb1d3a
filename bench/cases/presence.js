import { address, sleep, startClient, startServer } from '../harness.js'

/** The number of channels of the clients. */
const CHANNELS = 100

/** Addresses of clients in channels with a name, each of a separate user. */
function crowd(name, search, count) {
  return Array.from({ length: count }, (_, i) => {
    return address('ours', `${name}-${i % CHANNELS}`, { mode: 'r', sub: `user-${i}` }) + search
  })
}

/** The query of the address, and whether the channel tracks presence. `ours` does not, for comparison. */
const KINDS = { ours: '', presence: '', 'presence pushed': '?presence=true' }

export const presence = {
  title: '10,000 clients join 100 presence channels on one of two nodes',
  servers: Object.keys(KINDS),
  figures: {
    joining: 'µs of CPU a join, on the node that the clients join',
    other: 'µs of CPU a join, on the node without members'
  },
  pairs: 3,
  async run(server, dbUri, quick) {
    const script = server === 'ours' ? 'ours' : 'presence'
    const nodes = [await startServer(script, dbUri), await startServer(script, dbUri)]
    const [first, client] = [startClient('crowd'), startClient('crowd')]
    try {
      const [{ port }] = nodes
      const count = quick ? 2000 : 10_000
      // The first connections warm up the code. (Channels with other names do not track presence.)
      await first.order({ port, paths: crowd('lobby', '', 1000) })
      await first.order({ port, paths: crowd('room-warm', KINDS[server], 1000) })
      await first.stop()
      await sleep(2000)
      const before = await Promise.all(nodes.map(({ ask }) => ask('cpu')))
      await client.order({ port, paths: crowd('room', KINDS[server], count) })
      // Until all have received it.
      await sleep(1500)
      const after = await Promise.all(nodes.map(({ ask }) => ask('cpu')))
      const [joining, other] = nodes.map((_, i) => (after[i] - before[i]) / count)
      return { joining, other }
    } finally {
      await Promise.all([first.stop(), client.stop()])
      for (const { stop } of nodes) await stop()
    }
  }
}
