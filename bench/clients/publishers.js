// Connections that publish in SQL. Each runs one transaction after the other, in one round trip each.
import pg from 'pg'

const writers = []

/**
 * Runs a prepared statement on some of the connections, again and again.
 * @param order `text`, with the writer, the number of its first message and `batch` as parameters; `connections`; `batch`, how
 *   many messages a transaction publishes; `seconds`, 0 for one transaction each; `interval`, from one transaction to the next
 *   of a connection, in milliseconds (0: as fast as it can)
 */
async function write({ name, text, connections, batch, seconds, interval }) {
  const begun = performance.now()
  await Promise.all(
    writers.slice(0, connections).map(async (writer, i) => {
      let next = begun
      do {
        await writer.client.query({ name, text, values: [i, writer.next, batch] })
        writer.next += batch
        next += interval
        const early = next - performance.now()
        if (early > 0) await new Promise((resolve) => setTimeout(resolve, early))
      } while (performance.now() - begun < seconds * 1000)
    })
  )
}

process.on('message', async (order) => {
  if (order.uri !== undefined) {
    for (let i = 0; i < order.connections; i++) writers.push({ client: new pg.Client(order.uri), next: 0 })
    await Promise.all(writers.map(({ client }) => client.connect()))
  } else await write(order)
  process.send({ sent: writers.reduce((sum, { next }) => sum + next, 0) })
})
process.on('disconnect', () => process.exit())
