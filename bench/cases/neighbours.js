import { percentile, sign, startClient, startServer } from '../harness.js'

/** The maximum size of a frame (maxMessageBytes), in bytes. It contains up to 46,000 of the shortest commands. */
const FRAME = 1024 * 1024

function frameOf(line) {
  const lines = []
  for (let bytes = 0, id = 2; ; id++) {
    const text = line(id)
    bytes += text.length + 1
    if (bytes > FRAME) return lines.join('\n')
    lines.push(text)
  }
}
const refused = (method) => frameOf((id) => JSON.stringify({ id, [method]: { channel: 'x', data: 1 } }))

/** What one client sends repeatedly, as fast as it is read. */
const FLOODS = {
  rpc: frameOf((id) => `{"id":${id},"rpc":{}}`),
  publish: refused('publish'),
  subscribe: refused('subscribe'),
  presence: refused('presence'),
  connect: frameOf((id) => JSON.stringify({ id, connect: { token: sign({ mode: 'r', exp: 1 }) } })),
  raw: '.',
  'raw without the right to write': '.'
}

function connectCommand(kind) {
  return kind === 'connect'
    ? undefined
    : JSON.stringify({ id: 1, connect: { token: sign({ mode: 'rw', channels: ['a'] }) } })
}

export const neighbours = {
  title:
    'One client sends its worst (46,000 commands a frame, floods of small messages): what its neighbour waits for',
  servers: ['calm', ...Object.keys(FLOODS)],
  ours: ['calm', ...Object.keys(FLOODS)],
  baseline: 'calm',
  pairs: 3,
  figures: { ping: 'ping p99 ms', health: 'GET /health/live p99 ms', delivery: 'delivery p99 ms' },
  async run(kind, dbUri, quick) {
    const { port, stop } = await startServer('ours', dbUri)
    const neighbour = startClient('neighbour')
    const flooder = startClient('flooder')
    try {
      const flood = FLOODS[kind]
      if (flood !== undefined) {
        const raw = kind.startsWith('raw')
        const path = raw ? `/flood/${sign({ mode: kind === 'raw' ? 'w' : 'r' })}` : '/connection/websocket'
        await flooder.order({ port, path, greeting: raw ? undefined : connectCommand(kind), text: flood })
      }
      const path = `/chat/${sign({ mode: 'rw' })}`
      const waits = await neighbour.order({ port, path, seconds: quick ? 2 : 6 })
      return Object.fromEntries(Object.entries(waits).map(([name, some]) => [name, percentile(some, 0.99)]))
    } finally {
      await flooder.stop()
      await neighbour.stop()
      await stop()
    }
  }
}
