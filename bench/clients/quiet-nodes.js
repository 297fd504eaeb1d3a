// Nodes without clients, many in a process. Each has the connections on which a real node listens, counts the bytes, and
// discards them. So they cost the database and the bus what real nodes cost, and this machine little else.
import { once } from 'node:events'
import { connect } from 'node:net'
import pg from 'pg'

/** For each node, the bytes that came from the database and from the bus. */
const heard = []

/** A session that listens. Answers are read only until LISTEN has committed. */
async function listen(uri, channels, counts) {
  const client = new pg.Client(uri)
  await client.connect()
  await client.query(channels.map((channel) => `listen ${client.escapeIdentifier(channel)}`).join('; '))
  const { stream } = client.connection
  stream.removeAllListeners('data')
  stream.on('data', (chunk) => {
    counts.database += chunk.length
  })
}

/** A client of NATS (https://docs.nats.io/reference/reference-protocols/nats-protocol) that subscribes. */
async function subscribe(port, subjects, counts) {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'data')
  const subscriptions = subjects.map((subject, i) => `SUB ${subject} ${i + 1}\r\n`)
  socket.write(`CONNECT {"verbose":false,"pedantic":false}\r\n${subscriptions.join('')}PING\r\n`)
  let answer = ''
  while (!answer.includes('PONG\r\n')) answer += (await once(socket, 'data'))[0]
  socket.on('data', (chunk) => {
    counts.bus += chunk.length
    if (chunk.length === 6 && chunk.toString() === 'PING\r\n') socket.write('PONG\r\n')
  })
  socket.on('close', () => process.send({ failure: 'the bus has closed the connection of a node' }))
}

/** @param order `uri` and `channels` of the database; `bus`, with `port` and the `subjects` of each node, or undefined */
async function start({ uri, channels, nodes, bus }) {
  for (let i = 0; i < nodes; i++) {
    const counts = { database: 0, bus: 0 }
    heard.push(counts)
    await listen(uri, channels, counts)
    if (bus !== undefined) await subscribe(bus.port, bus.subjects[i], counts)
  }
}

process.on('message', async (order) => {
  if (order.uri !== undefined) await start(order)
  process.send({ heard })
})
process.on('disconnect', () => process.exit())
