// A node of a bus over NATS as a process of its own, which can be stopped:
//   node dist/test/support/nats-node.js <url> <prefix> <channel>
// It sends what it hears to its parent.
import { NatsBus } from '../../lib/bus/index.js'

const [url, prefix, channel] = process.argv.slice(2) as [string, string, string]
const send = (what: string) => process.send!(what)
const bus = new NatsBus({
  servers: [url],
  credentials: undefined,
  ca: undefined,
  prefix: () => prefix,
  node: `process${process.pid}`,
  log: { debug() {}, info() {}, warn() {}, error() {} }
})
await bus.start({
  announced: ({ position }) => send(`announced ${position}`),
  beat: () => {},
  received: () => {},
  interrupted: () => send('interrupted'),
  restored: () => send('restored')
})
await bus.join(channel)
send('joined')
process.once('disconnect', () => bus.close())
