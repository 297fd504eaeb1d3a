// Loaded before a server (--import): reports what the server's process uses, on request.
import { monitorEventLoopDelay } from 'node:perf_hooks'

const delay = monitorEventLoopDelay({ resolution: 1 })
delay.enable()

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
  }
})
