// Applications that write to the database. Each connection runs one transaction after the other, in one round trip each.
import pg from 'pg'

/**
 * Runs a prepared statement on each connection, again and again.
 * @param order `uri` and `connections`; `text`, with the id of a row as $1; `seconds`; `interval`, from one to the next of a
 *   connection, in milliseconds (0: as fast as it can)
 */
async function write({ uri, connections, text, seconds, interval }) {
  const clients = Array.from({ length: connections }, () => new pg.Client(uri))
  await Promise.all(clients.map((client) => client.connect()))
  const run = (client) =>
    client.query({ name: 'write', text, values: [1 + Math.floor(Math.random() * 10_000)] })
  // Each connection prepares its statement, so that nobody waits for it later.
  await Promise.all(clients.map(run))
  const begun = performance.now()
  let count = 0
  await Promise.all(
    clients.map(async (client) => {
      for (let next = begun; performance.now() - begun < seconds * 1000; next += interval) {
        await run(client)
        count++
        const early = next + interval - performance.now()
        if (early > 0) await new Promise((resolve) => setTimeout(resolve, early))
      }
    })
  )
  const took = (performance.now() - begun) / 1000
  await Promise.all(clients.map((client) => client.end()))
  return { sent: count + connections, rate: count / took }
}

process.on('message', async (order) => process.send(await write(order)))
process.on('disconnect', () => process.exit())
