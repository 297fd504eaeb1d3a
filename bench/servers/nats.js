// A NATS server on a free port. It stores nothing.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** The version of the program `nats-server`; undefined if it is not installed. */
export function natsVersion() {
  const { status, stdout } = spawnSync('nats-server', ['--version'], { encoding: 'utf8' })
  return status === 0 ? stdout.trim().replace(/^.*v/, '') : undefined
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

/** @param again the port of a server that has ended; default: a free port */
export async function startNats(again) {
  const port = again ?? (await freePort())
  const child = spawn('nats-server', ['--addr', '127.0.0.1', '--port', String(port)], { stdio: 'ignore' })
  const failed = new Promise((_, reject) => {
    child.once('error', reject)
    child.once('exit', () => reject(new Error('nats-server has ended')))
  })
  failed.catch(() => {})
  const listening = async () => {
    for (;;) {
      const socket = connect(port, '127.0.0.1')
      const [answered] = await Promise.race([
        once(socket, 'data').then(() => [true]),
        once(socket, 'close').then(() => [false])
      ]).catch(() => [false])
      socket.destroy()
      if (answered) return
      await sleep(20)
    }
  }
  await Promise.race([listening(), failed])
  return {
    port,
    pid: child.pid,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill()
      await once(child, 'exit')
    }
  }
}
