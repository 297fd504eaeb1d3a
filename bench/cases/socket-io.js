import { address, startClient, startServer } from '../harness.js'

const WRITERS = 50
const SERVERS = { 'socket-io': 'socket-io', ours: 'socket-io-ours' }

/** Two nodes of Socket.IO, with one adapter and with the other. */
export const socketIo = {
  title: 'Socket.IO: broadcasts from 50 sockets of one node to a reader on another',
  servers: ['socket-io', 'ours'],
  figures: { rate: 'messages/s' },
  pairs: 3,
  async run(server, dbUri, quick) {
    const nodes = [await startServer(SERVERS[server], dbUri), await startServer(SERVERS[server], dbUri)]
    const client = startClient('writers')
    try {
      const path = address('socket-io', 'chat')
      const result = await client.order({
        port: nodes[0].port,
        readerPort: nodes[1].port,
        writers: WRITERS,
        messages: 160 / (quick ? 4 : 1),
        // No client of the first node receives it, so that only the way between the nodes is measured.
        writePath: `${address('socket-io', 'none')}&to=chat`,
        readPath: path,
        socketIo: true
      })
      // The original runs several queries at once, and so loses the order, which is a result, too.
      if (result.failure && server === 'ours') throw new Error(`${server}: ${result.failure}`)
      return { rate: result.seen / result.seconds }
    } finally {
      await client.stop()
      for (const node of nodes) await node.stop()
    }
  }
}
