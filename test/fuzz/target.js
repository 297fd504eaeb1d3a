// The attacked servers: a server and a Socket.IO server, each in a process of its own, so that a crash is noticed.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { startEmbeddedPostgres } from '../../dist/lib/embedded-postgres/server.js'
import { AUDIENCE_CHANNEL, SECRET } from './values.js'

/** When to end what hangs, in milliseconds. Less after a failure, so that it is shrunk faster. */
export const deadline = { milliseconds: 30_000 }

const path = (name) => fileURLToPath(new URL(name, import.meta.url))

/** Waits until a condition holds. */
export async function until(condition, what) {
  const end = Date.now() + deadline.milliseconds
  for (;;) {
    if (await condition()) return
    if (Date.now() > end) throw new Error(`did not come true: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** A server process that reports its port and, on request, its memory. */
class Child {
  #child
  #log = []

  constructor(file, env) {
    this.#child = spawn(process.execPath, ['--expose-gc', '--import', path('./preload.js'), path(file)], {
      env: { PATH: process.env.PATH, ...env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc']
    })
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        this.#log = [...this.#log, ...text.split('\n').filter(Boolean)].slice(-60)
      })
    }
  }

  /** The end of what it logged. */
  get log() {
    return this.#log
  }

  /** @throws Error if the process has ended, with the end of its log */
  check() {
    const { exitCode, signalCode } = this.#child
    if (exitCode !== null || signalCode !== null) {
      throw new Error(`the process has ended with ${exitCode ?? signalCode}:\n${this.#log.join('\n')}`)
    }
  }

  async ask(question) {
    this.check()
    const signal = AbortSignal.timeout(deadline.milliseconds)
    const answer = (async () => {
      for await (const [message] of onMessages(this.#child, signal)) {
        if (question in message) return message[question]
      }
    })()
    this.#child.send(question)
    return answer.catch((error) => {
      this.check()
      throw new Error(`no answer to "${question}":\n${this.#log.join('\n')}`, { cause: error })
    })
  }

  async stop() {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exit = once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await exit
  }
}

async function* onMessages(child, signal) {
  for (;;) yield await once(child, 'message', { signal })
}

/** The database, and both servers. */
export class Target {
  #postgres
  #folder
  server
  socketIo
  /** As a superuser. */
  pool

  static async start() {
    const target = new Target()
    target.#folder = mkdtempSync(join(tmpdir(), 'pgws-fuzz-'))
    target.#postgres = await startEmbeddedPostgres({
      folder: target.#folder,
      settings: { fsync: 'off', synchronous_commit: 'off', max_connections: '100' }
    })
    target.pool = new pg.Pool({
      connectionString: target.#postgres.uri,
      max: 20,
      // The limit for a stranger's statement.
      statement_timeout: 5000
    })
    target.pool.on('error', () => {})
    await target.run()
    return target
  }

  get uri() {
    return this.#postgres.uri
  }

  get http() {
    return `http://127.0.0.1:${this.port}`
  }

  /** Starts both servers, again if they run. */
  async run() {
    await this.server?.stop()
    await this.socketIo?.stop()
    this.server = new Child('../../dist/cli.js', {
      HOME: this.#folder,
      PGWS_DB_URI: this.uri,
      PGWS_JWT_SECRET: SECRET,
      PGWS_HOST: '127.0.0.1',
      PGWS_PORT: '0',
      PGWS_MIGRATE: 'true',
      PGWS_CHECK_LISTENER_INTERVAL: '1000',
      PGWS_META_CHANNEL: 'meta',
      PGWS_RAW_CHANNELS: 'raw:*',
      PGWS_PRESENCE_CHANNELS: 'room:*',
      PGWS_AUDIENCE_CHANNELS: AUDIENCE_CHANNEL,
      PGWS_AUDIENCE_PUBLIC: 'true',
      PGWS_HANDSHAKE_TIMEOUT: '2000'
    })
    this.socketIo = new Child('./socket-io-server.js', { DB_URI: this.uri })
    this.port = await this.server.ask('port')
    this.socketIoPort = await this.socketIo.ask('port')
    await until(async () => (await fetch(`${this.http}/health`)).status === 200, 'the server is healthy')
    await this.pool.query(`select pgws.retain('kept:*', '1 hour'), pgws.retain('kept-witness', '1 hour')`)
  }

  check() {
    this.server.check()
    this.socketIo.check()
  }

  /** The numbers of connections and of channels with readers, as the server counts them. */
  async counts() {
    const text = await (await fetch(`${this.http}/metrics`)).text()
    return ['connections', 'channels'].map((name) => {
      // The metric of connections has a label.
      const series = [...text.matchAll(new RegExp(`^pgws_${name}(?:{.*})? (.*)$`, 'gm'))]
      return series.reduce((sum, [, value]) => sum + Number(value), 0)
    })
  }

  async memory() {
    return (await this.server.ask('memory')) + (await this.socketIo.ask('memory'))
  }

  async stop() {
    await this.pool.end()
    await this.server.stop()
    await this.socketIo.stop()
    await this.#postgres.stop()
    for (const place of [this.#folder, dirname(this.#postgres.dataFolder), this.#postgres.socketFolder]) {
      rmSync(place, { recursive: true, force: true })
    }
  }
}
