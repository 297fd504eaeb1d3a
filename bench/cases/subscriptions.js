import { readFileSync } from 'node:fs'
import { sleep, startClient } from '../harness.js'
import { natsVersion, startNats } from '../servers/nats.js'

/** Joined before, to warm up code and pools. */
const FIRST = 1000

/** The resident memory of a process, in bytes: see proc(5). */
function memoryOf(pid) {
  const [, kilobytes] = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))
  return Number(kilobytes) * 1024
}

const unavailable = () => {
  if (natsVersion() === undefined)
    return 'subscriptions: left out, because the program `nats-server` is not installed'
  if (process.platform !== 'linux')
    return 'subscriptions: left out, because it reads /proc, which only Linux has'
}

/** What joined channels cost a node and the NATS server, and how long a node takes to rejoin after a restart. */
export const subscriptions = {
  title:
    'Joined channels over NATS, and a restart of its server (with the pause before the node tries again)',
  servers: ['10,000 channels', '100,000 channels'],
  baseline: '10,000 channels',
  figures: {
    cpu: 'µs of CPU of the node to join',
    memory: 'KB in the node',
    server: 'KB in the NATS server',
    restored: 'ms from the restart until all are joined again'
  },
  pairs: 3,
  unavailable: unavailable(),
  async run(name) {
    const count = Number(name.replace(/\D/g, ''))
    let nats = await startNats()
    const node = startClient('subscriber')
    try {
      await node.order({ port: nats.port })
      const before = await node.order({ from: 0, count: FIRST })
      const serverBefore = memoryOf(nats.pid)
      const after = await node.order({ from: FIRST, count })
      await sleep(500)
      const server = memoryOf(nats.pid) - serverBefore
      const restored = node.order({ untilRestored: true })
      restored.catch(() => {})
      await nats.stop()
      const begun = performance.now()
      nats = await startNats(nats.port)
      await restored
      return {
        cpu: after.cpu / count,
        memory: (after.memory - before.memory) / count / 1024,
        server: server / count / 1024,
        restored: performance.now() - begun
      }
    } finally {
      await node.stop()
      await nats.stop()
    }
  }
}
