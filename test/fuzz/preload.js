// Preloaded into the attacked processes: answers the fuzzer's questions.
import { Server } from 'node:net'

const servers = []
const { listen } = Server.prototype
Server.prototype.listen = function (...all) {
  servers.push(this)
  return listen.apply(this, all)
}

process.on('message', async (question) => {
  if (question === 'port') {
    const server = await listening()
    process.send({ port: server.address().port })
  }
  if (question === 'memory') {
    // Finalizers run in the meantime.
    for (let i = 0; i < 3; i++) {
      globalThis.gc()
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    const { heapUsed, external } = process.memoryUsage()
    process.send({ memory: heapUsed + external })
  }
})
process.channel.unref()
// The fuzzer has ended.
process.on('disconnect', () => process.exit(1))

async function listening() {
  for (;;) {
    const server = servers.find((one) => typeof one.address() === 'object' && one.address() !== null)
    if (server !== undefined) return server
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
