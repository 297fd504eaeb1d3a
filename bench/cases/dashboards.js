import { address, sign, sleep, startClient, startServer } from '../harness.js'

const DASHBOARDS = 3
/** How often the page reloads an open list, in milliseconds. */
const RELOADED = 5000
const LISTS = [
  '/connections?scope=cluster&limit=100',
  '/channels?scope=cluster&limit=100',
  '/channels?scope=cluster&sort=rate&limit=100'
]

export const dashboards = {
  title: '10,000 connections and 10,000 channels: CPU of the node with three dashboards and their lists open',
  servers: ['none', 'three'],
  baseline: 'none',
  figures: { cpu: '% of a core' },
  pairs: 1,
  async runAll(_servers, dbUri, quick) {
    const count = quick ? 2000 : 10_000
    const seconds = quick ? 5 : 15
    const { port, ask, stop } = await startServer('ours', dbUri)
    const client = startClient('crowd')
    const abort = new AbortController()
    const headers = { authorization: `Bearer ${sign({ admin: true })}` }
    const cpu = async () => {
      await sleep(2000)
      const before = await ask('cpu')
      await sleep(seconds * 1000)
      return { cpu: ((await ask('cpu')) - before) / seconds / 1e4 }
    }
    try {
      const paths = Array.from({ length: count }, (_, i) =>
        address('ours', `channel-${i}`, { mode: 'rw', sub: `user-${i}` })
      )
      await client.order({ port, paths })
      const none = await cpu()
      const get = async (path, accept = 'application/json') => {
        const response = await fetch(`http://127.0.0.1:${port}${path}`, {
          headers: { ...headers, accept },
          signal: abort.signal
        })
        if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
        return response
      }
      for (let n = 0; n < DASHBOARDS; n++) {
        const { body } = await get('/events?scope=cluster&stats=true', 'text/event-stream')
        body.pipeTo(new WritableStream()).catch(() => {})
        load(get, abort.signal, (RELOADED * n) / DASHBOARDS).catch((error) => {
          if (!abort.signal.aborted) console.error(error)
        })
      }
      return [none, await cpu()]
    } finally {
      abort.abort()
      await client.stop()
      await stop()
    }
  }
}

/** Loads the lists of a dashboard again and again. */
async function load(get, signal, delay) {
  await sleep(delay)
  while (!signal.aborted) {
    for (const path of LISTS) await (await get(path)).text()
    await sleep(RELOADED)
  }
}
