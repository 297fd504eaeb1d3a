// Preloaded into a server (--import): on request, reports what the process uses.
import { Socket } from 'node:net'
import { monitorEventLoopDelay } from 'node:perf_hooks'

const delay = monitorEventLoopDelay({ resolution: 1 })
delay.enable()

/** The connections of this process to PostgreSQL, whose socket is a file. */
const toDatabase = new Set()
const { connect } = Socket.prototype
Socket.prototype.connect = function (...args) {
  if (String(args[0]?.[0]?.path ?? args[0]?.path ?? args[0]).includes('/.s.PGSQL.')) toDatabase.add(this)
  return connect.apply(this, args)
}

process.on('message', async (question) => {
  if (question === 'memory') {
    for (let i = 0; i < 4; i++) {
      globalThis.gc()
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    process.send({ answer: process.memoryUsage().rss })
  } else if (question === 'cpu') {
    const { user, system } = process.cpuUsage()
    process.send({ answer: user + system })
  } else if (question === 'delay') {
    process.send({ answer: delay.max / 1e6 })
    delay.reset()
  } else if (question === 'received') {
    process.send({ answer: [...toDatabase].reduce((sum, { bytesRead }) => sum + bytesRead, 0) })
  }
})
