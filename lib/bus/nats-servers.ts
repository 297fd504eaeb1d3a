/** The port of NATS (https://docs.nats.io/running-a-nats-service/configuration). */
const DEFAULT_PORT = '4222'

/** A server with its port. */
export function readServer(text: string): URL {
  const server = new URL(text)
  if (server.port === '') server.port = DEFAULT_PORT
  return server
}

/** The same in random order. */
export function shuffled<Item>(items: readonly Item[]): Item[] {
  return items
    .map((item) => ({ item, key: Math.random() }))
    .sort((one, other) => one.key - other.key)
    .map(({ item }) => item)
}
