import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from './app.js'
import { type Owner, until } from './helper.js'

/** What `/varz` and `/connz` of a server's monitoring say, as far as tests read it. */
export interface Monitored {
  connections: number
  subscriptions: number
  in_msgs: number
  out_msgs: number
  slow_consumers: number
  routes: number
}

/** A connection of a client, as `/connz` says. */
export interface NatsClient {
  name: string
  subscriptions: number
  subscriptions_list?: string[]
}

/** A nats-server of a test's own, on free ports that it keeps. */
export class NatsServer {
  readonly port: number
  readonly #monitorPort: number
  readonly #file: string
  #process: ChildProcess | undefined
  #output = ''

  private constructor(port: number, monitorPort: number, file: string) {
    this.port = port
    this.#monitorPort = monitorPort
    this.#file = file
  }

  /**
   * @param configuration lines beside the ports
   *   (https://docs.nats.io/running-a-nats-service/configuration)
   */
  static async start(t: Owner, configuration = ''): Promise<NatsServer> {
    const server = await NatsServer.configure(t, configuration)
    await server.start()
    return server
  }

  /** A server that is not started yet. */
  static async configure(t: Owner, configuration = ''): Promise<NatsServer> {
    const folder = mkdtempSync(join(tmpdir(), 'pgws-nats-'))
    const server = new NatsServer(await freePort(), await freePort(), join(folder, 'nats.conf'))
    server.configure(configuration)
    t.teardown(async () => {
      await server.kill()
      rmSync(folder, { recursive: true, force: true })
    })
    return server
  }

  get url(): string {
    return `nats://127.0.0.1:${this.port}`
  }

  /** What it has logged, over all of its starts. */
  get output(): string {
    return this.#output
  }

  get pid(): number {
    return this.#process!.pid!
  }

  /** Replaces the configuration, for the next start or `reload`. */
  configure(configuration: string): void {
    const lines = [`listen: 127.0.0.1:${this.port}`, `http: 127.0.0.1:${this.#monitorPort}`, configuration]
    writeFileSync(this.#file, `${lines.join('\n')}\n`)
  }

  async start(): Promise<void> {
    const child = spawn('nats-server', ['-c', this.#file], { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#process = child
    const before = this.#output.length
    child.stderr.on('data', (chunk) => {
      this.#output += chunk
    })
    const output = () => this.#output.slice(before)
    const failed = once(child, 'error').then(([error]) => error)
    let ended = false
    child.once('exit', () => {
      ended = true
    })
    const problem = await Promise.race([
      failed,
      until(() => ended || output().includes('Server is ready')).then(() =>
        ended ? new Error(`nats-server has ended:\n${output()}`) : undefined
      )
    ])
    if (problem !== undefined) throw problem
  }

  /** Reads the configuration again, as a server in production does. */
  reload(): void {
    process.kill(this.pid, 'SIGHUP')
  }

  /** Stops the process for a while: it accepts connections and answers nothing. */
  async pause(): Promise<void> {
    process.kill(this.pid, 'SIGSTOP')
    // Its threads stop one after the other, and may answer until then.
    const threads = () =>
      execFileSync('ps', ['-L', '-o', 'stat=', '-p', String(this.pid)], { encoding: 'utf8' })
    await until(() =>
      threads()
        .trim()
        .split('\n')
        .every((state) => state.startsWith('T'))
    )
  }

  continue(): void {
    process.kill(this.pid, 'SIGCONT')
  }

  /** Ends as when the machine fails. */
  async kill(): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }

  async restart(): Promise<void> {
    await this.kill()
    await this.start()
  }

  /** Asks its monitoring (https://docs.nats.io/running-a-nats-service/nats_admin/monitoring). */
  async ask<Answer>(path: string): Promise<Answer> {
    // A connection that is kept would break when the server is killed.
    const headers = { connection: 'close' }
    const response = await fetch(`http://127.0.0.1:${this.#monitorPort}${path}`, { headers })
    return (await response.json()) as Answer
  }

  monitor(): Promise<Monitored> {
    return this.ask('/varz')
  }

  /** Its clients at the moment, with the subjects that they have subscribed. */
  async clients(): Promise<NatsClient[]> {
    const { connections } = await this.ask<{ connections: NatsClient[] }>('/connz?subs=true&limit=1024')
    return connections
  }

  /** The number of subscriptions of each connection's name. */
  async subscriptions(): Promise<Map<string, number>> {
    const clients = await this.clients()
    return new Map(clients.map(({ name, subscriptions }) => [name, subscriptions]))
  }
}

/** Servers of one cluster, each with a route to each other. */
export async function natsCluster(t: Owner, size = 3, configuration = ''): Promise<NatsServer[]> {
  const ports = await Promise.all(Array.from({ length: size }, freePort))
  const routes = ports.map((port) => `nats-route://127.0.0.1:${port}`).join(', ')
  const servers = await Promise.all(
    ports.map((port) =>
      NatsServer.configure(
        t,
        `cluster { name: test, listen: 127.0.0.1:${port}, routes: [${routes}] }\n${configuration}`
      )
    )
  )
  await Promise.all(servers.map((server) => server.start()))
  await until(async () =>
    (await Promise.all(servers.map((server) => server.monitor()))).every(({ routes }) => routes >= size - 1)
  )
  return servers
}
