import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { CLI } from '../support/app.js'
import type { FaultProxy } from '../support/fault-proxy.js'
import { SECRET } from '../support/helper.js'

/** The `nodeTimeout` of the nodes, in milliseconds. */
export const NODE_TIMEOUT = 2000

/** The preloaded module that sets the clock of a node. */
const CLOCK = new URL('clock.js', import.meta.url).href

export interface NodeOptions {
  name: string
  port: number
  /** The proxies between the node and each PostgreSQL. */
  proxies: FaultProxy[]
  /** The proxy between the node and its nats-server; undefined if PostgreSQL is the bus. */
  bus: FaultProxy | undefined
  dbUri: string
  /** The path of the command. */
  cli: string
}

/** What `GET /health` says of the bus; nothing, in releases that have none. */
interface State {
  bus?: { status: string; others: string[] }
}

/** A server in a process of its own, with its own proxies to each PostgreSQL. */
export class Node {
  readonly name: string
  readonly port: number
  readonly proxies: FaultProxy[]
  readonly bus: FaultProxy | undefined
  readonly #dbUri: string
  readonly #cli: string
  #child: ChildProcess | undefined
  #output = ''
  /** The fraction of notifications to the node that are dropped, from 0 to 1. */
  dropped = 0
  /** Whether messages of NATS to the node are dropped. */
  dropsBus = false
  /** How many messages nats-server has sent to it. */
  busMessages = 0
  /** Whether it uses the bus after its next start. */
  usesBus = true

  constructor({ name, port, proxies, bus, dbUri, cli }: NodeOptions) {
    this.name = name
    this.port = port
    this.proxies = proxies
    this.bus = bus
    this.#dbUri = dbUri
    this.#cli = cli
    for (const proxy of proxies) {
      // Not the answers to probes, because without them the connection would be replaced.
      proxy.drop = (channel) => !channel.startsWith('pgws_probe_') && Math.random() < this.dropped
    }
    if (bus !== undefined) {
      bus.drop = () => {
        this.busMessages++
        return this.dropsBus
      }
    }
  }

  get http(): string {
    return `http://127.0.0.1:${this.port}`
  }

  get ws(): string {
    return `ws://127.0.0.1:${this.port}`
  }

  get output(): string {
    return this.#output
  }

  /** Whether it is a server of the previous release. */
  get previous(): boolean {
    return this.#cli !== CLI
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null
  }

  start(): void {
    const child = spawn(process.execPath, ['--import', CLOCK, this.#cli], {
      cwd: '/',
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: {
        PATH: process.env.PATH,
        PGWS_DB_URI: this.#dbUri,
        PGWS_JWT_SECRET: SECRET,
        PGWS_HOST: '127.0.0.1',
        PGWS_PORT: String(this.port),
        PGWS_CHECK_LISTENER_INTERVAL: '500',
        PGWS_NODE_TIMEOUT: String(NODE_TIMEOUT),
        ...(this.bus !== undefined && this.usesBus && { PGWS_BUS: `nats://127.0.0.1:${this.bus.port}` }),
        PGWS_METRICS: 'false',
        PGWS_DOCUMENTATION: 'false'
      }
    })
    this.#output += `--- ${this.name} starts as process ${child.pid}\n`
    for (const output of [child.stdout!, child.stderr!]) {
      output.on('data', (chunk) => (this.#output += chunk))
    }
    child.on('exit', (code, signal) => (this.#output += `--- ended with ${signal ?? code}\n`))
    this.#child = child
  }

  signal(name: NodeJS.Signals): void {
    if (this.running) this.#child!.kill(name)
  }

  /** Sets its clock forward, or back. */
  setClock(seconds: number): void {
    if (this.running && this.#child!.connected) this.#child!.send({ setClock: seconds }, () => {})
  }

  async end(name: NodeJS.Signals): Promise<void> {
    if (!this.running) return
    const ended = once(this.#child!, 'exit')
    this.#child!.kill(name)
    await ended
  }

  /** Whether it serves clients. */
  async healthy(): Promise<boolean> {
    return (await this.#health())?.ok ?? false
  }

  /** Whether it is connected to its bus, if it has one. */
  async connected(): Promise<boolean> {
    const state = await this.#state()
    return state !== undefined && state.bus?.status !== 'away'
  }

  /** Whether the bus carries its messages, and it knows of no node without the bus. */
  async unanimous(): Promise<boolean> {
    const bus = (await this.#state())?.bus
    return bus?.status === 'up' && bus.others.length === 0
  }

  async #state(): Promise<State | undefined> {
    return (await (await this.#health())?.json().catch(() => undefined)) as State | undefined
  }

  async #health(): Promise<Response | undefined> {
    try {
      return await fetch(`${this.http}/health`, { signal: AbortSignal.timeout(5000) })
    } catch {
      return undefined
    }
  }
}
