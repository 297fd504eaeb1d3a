// Only the bus of a node. It joins channels over NATS, and reconnects after a restart of the server.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { built } from '../built.js'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')

let bus
let restored

async function collectAll() {
  for (let i = 0; i < 4; i++) {
    collect()
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function start(port) {
  const { NatsBus } = await built('lib/bus/index.js')
  const quiet = { info() {}, warn() {}, error: console.error }
  const [servers, prefix] = [[`nats://127.0.0.1:${port}`], () => 'bench']
  bus = new NatsBus({ servers, credentials: undefined, ca: undefined, prefix, node: 'bench', log: quiet })
  const ignore = () => {}
  await bus.start({
    announced: ignore,
    beat: ignore,
    received: ignore,
    interrupted: ignore,
    restored: () => restored?.()
  })
}

const join = (from, count) =>
  Promise.all(Array.from({ length: count }, (_, i) => bus.join(`channel-${from + i}`)))

/** Answers with the CPU time of the order, in microseconds, and the memory in use, in bytes. */
process.on('message', async ({ port, from, count, untilRestored }) => {
  if (port !== undefined) await start(port)
  if (untilRestored) {
    await new Promise((resolve) => {
      restored = resolve
    })
    return process.send({})
  }
  const before = process.cpuUsage()
  if (count !== undefined) await join(from, count)
  const { user, system } = process.cpuUsage(before)
  await collectAll()
  process.send({ cpu: user + system, memory: process.memoryUsage().rss })
})
process.on('disconnect', () => process.exit())
