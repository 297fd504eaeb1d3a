import { arrived, busOf, STATEMENTS, startReader, WRITERS } from '../cluster.js'
import { median, sleep, startClient, startServer } from '../harness.js'
import { natsVersion, startNats } from '../servers/nats.js'
import { connect, ownDatabase } from './durable.js'

/** 500 messages per second, each in a transaction; and 5,000 per second, 100 in a transaction. */
const LOADS = {
  alone: { connections: 1, batch: 1, interval: 2 },
  batched: { connections: 1, batch: 100, interval: 20 }
}

/**
 * What messages cost a node without clients for them, while another one announces and delivers them. What the node uses at
 * rest is subtracted, so a result near zero can be negative.
 */
export const unwanted = {
  title: 'A node without clients, while messages are delivered by another one',
  servers: ['pg_notify', 'NOTIFY', ...(natsVersion() === undefined ? [] : ['NATS'])],
  baseline: 'NOTIFY',
  figures: {
    alone: 'µs of CPU a message, one a transaction',
    batched: 'µs of CPU a message, 100 a transaction'
  },
  pairs: 3,
  async run(bus, dbUri, quick) {
    const uri = await ownDatabase(dbUri)
    const nats = bus === 'NATS' ? await startNats() : undefined
    const started = nats ? [nats] : []
    const control = await connect(dbUri)
    try {
      const node = await startServer('node', uri, busOf(nats))
      started.push(node)
      const reader = await startReader(node.port)
      const publishers = startClient('publishers')
      started.push(publishers)
      await publishers.order({ uri, connections: WRITERS })
      const publish = async (how, seconds) =>
        arrived(
          reader,
          (await publishers.order({ name: 'publish', text: STATEMENTS[bus], ...how, seconds })).sent
        )
      // The first node is the sequencer, so the other one is not.
      await publish(LOADS.alone, 0)
      const bystander = await startServer('node', uri, busOf(nats))
      started.push(bystander)
      const seconds = quick ? 2 : 5
      for (const how of Object.values(LOADS)) await publish(how, 1)
      /** The CPU time of the node while something happens: microseconds, and milliseconds of the clock. */
      const spent = async (action) => {
        const [cpu, begun] = [await bystander.ask('cpu'), performance.now()]
        await action()
        return { cpu: (await bystander.ask('cpu')) - cpu, elapsed: performance.now() - begun }
      }
      const rest = []
      for (let i = 0; i <= seconds; i++) rest.push(await spent(() => sleep(1000)))
      const atRest = median(rest.map(({ cpu, elapsed }) => cpu / elapsed))
      const result = {}
      for (const [load, how] of Object.entries(LOADS)) {
        const { seen } = reader
        const { cpu, elapsed } = await spent(() => publish(how, seconds))
        result[load] = (cpu - atRest * elapsed) / (reader.seen - seen)
      }
      reader.socket.terminate()
      return result
    } finally {
      for (const { stop } of started.reverse()) await stop()
      await control.query(`drop database ${/\/(durable_\d+)\?/.exec(uri)[1]} with (force)`)
      await control.end()
    }
  }
}
