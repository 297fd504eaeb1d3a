import { address, startClient, startServer } from '../harness.js'

const WRITERS = 50

export const publishing = {
  title: 'Publishing from 50 sockets to one reader',
  servers: ['one-query', 'ours', 'naive', 'socket-io'],
  figures: { rate: 'messages/s' },
  async run(server, dbUri, quick) {
    const socketIo = server === 'socket-io'
    const node = await startServer(server, dbUri)
    // Socket.IO delivers to its own clients directly. Only messages from other nodes pass through the database.
    const other = socketIo ? await startServer(server, dbUri) : node
    const client = startClient('writers')
    try {
      const result = await client.order({
        port: node.port,
        readerPort: other.port,
        writers: WRITERS,
        messages: (server === 'ours' ? 2000 : 300) / (quick ? 4 : 1),
        writePath: address(server, 'chat', { mode: 'w' }),
        readPath: address(server, 'chat', { mode: 'r' }),
        socketIo
      })
      // These two run several queries at once, and so lose the order, which is a result, too.
      if (result.failure && !['naive', 'socket-io'].includes(server))
        throw new Error(`${server}: ${result.failure}`)
      return { rate: result.seen / result.seconds }
    } finally {
      await client.stop()
      await node.stop()
      if (other !== node) await other.stop()
    }
  }
}
