// Servers and clients, each in a process of its own, and other parts that all cases share.
import { fork } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const DEADLINE = 60_000
const LISTEN_CHANNEL = 'postgres-websockets-listener'
const SECRET = 'the secret of the benchmark only'
const file = (name) => fileURLToPath(new URL(name, import.meta.url))

/** A token (RFC 7519, HS256). */
export function sign(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${part({ alg: 'HS256' })}.${part(claims)}`
  return `${input}.${createHmac('sha256', SECRET).update(input).digest('base64url')}`
}

/** The path at which a server accepts the sockets of a channel. */
export function address(server, channel, claims) {
  if (server === 'socket-io') return `/socket.io/?EIO=4&transport=websocket&channel=${channel}`
  return `/${channel}/${sign(claims)}`
}

/** The notification, and its database channel, that make a server send a text to the readers of a channel. */
export function notification(server, channel, text) {
  if (server !== 'socket-io') return [LISTEN_CHANNEL, text]
  // A broadcast from another node (MessageType.BROADCAST of socket.io-adapter is 3).
  const opts = { rooms: [channel], except: [], flags: {} }
  const packet = { type: 2, data: ['message', text], nsp: '/' }
  return ['socket.io#/', JSON.stringify({ uid: 'bench', nsp: '/', type: 3, data: { opts, packet } })]
}

/** Starts bench/servers/<name>.js. Resolves when it listens. `variables` are added to its environment. */
export async function startServer(name, dbUri, variables = {}) {
  const child = fork(file(`servers/${name}.js`), {
    env: { ...process.env, DB_URI: dbUri, SECRET, LISTEN_CHANNEL, NODE_ENV: 'production', ...variables },
    execArgv: ['--expose-gc', '--import', file('measure.js')]
  })
  const { port } = await answer(child, name)
  return {
    port,
    /** `memory` (bytes), `cpu` (µs), `delay` (the event loop's longest since the last question, ms), or `received` (bytes from PostgreSQL). */
    async ask(question) {
      child.send(question)
      return (await answer(child, name)).answer
    },
    stop: () => stop(child)
  }
}

/** Starts bench/clients/<name>.js. */
export function startClient(name) {
  const child = fork(file(`clients/${name}.js`))
  return {
    /**
     * Sends an order and waits for the answer.
     * @param within milliseconds
     */
    async order(message, within) {
      child.send(message)
      return answer(child, name, within)
    },
    next: () => answer(child, name),
    stop: () => stop(child)
  }
}

/** Rejects after a time, because a server or client that does not answer has lost something. */
async function answer(child, name, within = DEADLINE) {
  const abort = new AbortController()
  const { signal } = abort
  try {
    return await Promise.race([
      once(child, 'message', { signal }).then(([message]) => message),
      once(child, 'exit', { signal }).then(() => {
        throw new Error(`${name} has ended`)
      }),
      new Promise((_, reject) => {
        const late = setTimeout(
          () => reject(new Error(`${name}: nothing came for ${within} ms; messages are missing`)),
          within
        )
        signal.addEventListener('abort', () => clearTimeout(late))
      })
    ])
  } finally {
    abort.abort()
  }
}

async function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGKILL')
  await once(child, 'exit')
}

export function median(values) {
  return percentile(values, 0.5)
}

/** @param part 0 to 1 */
export function percentile(values, part) {
  return [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) * part)]
}

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))
