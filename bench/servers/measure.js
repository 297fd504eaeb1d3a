// Loaded before a server (--import): tells what the server's process uses when it is asked.
process.on('message', async (question) => {
  if (question !== 'usage') return
  for (let i = 0; i < 4; i++) {
    globalThis.gc()
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  const { user, system } = process.cpuUsage()
  process.send({ usage: { rss: process.memoryUsage().rss, cpu: (user + system) / 1000 } })
})
