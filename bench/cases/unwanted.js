import { arrived, busOf, STATEMENTS, startReader, WRITERS } from '../cluster.js'
import { sleep, startClient, startServer } from '../harness.js'
import { natsVersion, startNats } from '../servers/nats.js'
import { connect, ownDatabase } from './durable.js'

/** 200 messages per second, each in a transaction; and 5,000 per second, 100 in a transaction. */
const LOADS = {
  alone: { connections: 1, batch: 1, interval: 5 },
  batched: { connections: 1, batch: 100, interval: 20 }
}

/** What messages cost a node without clients for them, while another one announces and delivers them. */
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
      const idle = await bystander.ask('cpu')
      await sleep(seconds * 1000)
      const atRest = (await bystander.ask('cpu')) - idle
      const result = {}
      for (const [load, how] of Object.entries(LOADS)) {
        const cpu = await bystander.ask('cpu')
        const { seen } = reader
        await publish(how, seconds)
        const used = (await bystander.ask('cpu')) - cpu - atRest
        result[load] = Math.max(0, used) / (reader.seen - seen)
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
