import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import type { QueryResult } from 'pg'
import type { EmbeddedPostgres } from '../../lib/embedded-postgres/server.js'
import { CLI, freePort } from '../support/app.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { install, query, SECRET, until } from '../support/helper.js'
import { createDatabase, testPostgres } from '../support/postgres.js'
import { previousRelease, RELEASES } from '../support/previous-release.js'
import { portOf, type Replication, withStandby } from '../support/standby.js'
import { prepare } from './channels.js'
import type { Random } from './random.js'
import type { Owner, Target } from './target.js'

/** After how much silence a node counts as dead, in milliseconds. */
export const NODE_TIMEOUT = 2000

/** What a commit promises must outlive the end of PostgreSQL; the machine itself does not end. */
const SETTINGS = { synchronous_commit: 'on', restart_after_crash: 'on' }

/** The clock of a node is set by it. */
const CLOCK = new URL('clock.js', import.meta.url).href

/** A server, in a process of its own, with its own way to each PostgreSQL. */
export class Node {
  readonly name: string
  readonly port: number
  readonly proxies: FaultProxy[]
  readonly #dbUri: string
  readonly #cli: string
  #child: ChildProcess | undefined
  #output = ''
  /** How many of the notifications on their way to the node are dropped, from 0 to 1. */
  dropped = 0

  constructor(name: string, port: number, proxies: FaultProxy[], dbUri: string, cli = CLI) {
    this.name = name
    this.port = port
    this.proxies = proxies
    this.#dbUri = dbUri
    this.#cli = cli
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

  /** Of the previous release. */
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

  async healthy(): Promise<boolean> {
    try {
      return (await fetch(`${this.http}/health`, { signal: AbortSignal.timeout(5000) })).ok
    } catch {
      return false
    }
  }
}

export interface SystemOptions {
  /** How many servers of this release. */
  nodes: number
  /** Whether PostgreSQL has a synchronous standby. */
  standby: boolean
  /** Whether there is a server of the previous release, too. */
  previous: boolean
}

/** A PostgreSQL, perhaps with its standby, and the nodes. */
export class System implements Target {
  readonly nodes: Node[]
  readonly replication: Replication | undefined
  postgres: EmbeddedPostgres
  dbUri: string

  private constructor(
    nodes: Node[],
    postgres: EmbeddedPostgres,
    dbUri: string,
    replication: Replication | undefined
  ) {
    this.nodes = nodes
    this.postgres = postgres
    this.dbUri = dbUri
    this.replication = replication
  }

  /** Starts all, and waits until it works. */
  static async start(owner: Owner, { nodes: count, standby, previous }: SystemOptions) {
    const replication = standby
      ? await withStandby(owner, { synchronous: true, settings: SETTINGS })
      : undefined
    const postgres = replication?.primary ?? (await testPostgres(owner, SETTINGS))
    const dbUri = await createDatabase(postgres)
    await install(dbUri)
    await prepare(dbUri)
    const targets =
      replication === undefined
        ? [join(postgres.socketFolder, '.s.PGSQL.5432')]
        : [replication.primary, replication.standby].map(portOf)
    const nodes: Node[] = []
    const commands = Array.from({ length: count }, () => CLI)
    if (previous) {
      const command = await previousRelease(owner, RELEASES.at(-1)!)
      if (command === undefined)
        throw new Error('the history of the repository is needed for the previous release')
      commands.push(command)
    }
    for (const [i, command] of commands.entries()) {
      const proxies: FaultProxy[] = []
      for (const target of targets) proxies.push(await FaultProxy.start(owner, target))
      const hosts = proxies.map(({ port }) => `127.0.0.1:${port}`).join(',')
      const name = /\/([^/?]+)\?/.exec(dbUri)![1]
      const node = new Node(
        command === CLI ? `node-${i}` : `previous-node-${i}`,
        await freePort(),
        proxies,
        `postgresql://postgres@${hosts}/${name}?target_session_attrs=read-write`,
        command
      )
      for (const proxy of proxies) {
        // Without what proves that a connection is alive, it would be replaced.
        proxy.drop = (channel) => !channel.startsWith('pgws_probe_') && Math.random() < node.dropped
      }
      owner.teardown(() => node.end('SIGKILL'))
      node.start()
      nodes.push(node)
    }
    const system = new System(nodes, postgres, dbUri, replication)
    await system.healthy()
    return system
  }

  node(random: Random): Node {
    return random.one(this.nodes)
  }

  async query(text: string, values: unknown[] = []): Promise<QueryResult> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await query(this.dbUri, text, values)
      } catch (error) {
        if (attempt === 100) throw error
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
    }
  }

  /** Waits until all nodes work. */
  async healthy(): Promise<void> {
    await until(async () => (await Promise.all(this.nodes.map((node) => node.healthy()))).every(Boolean))
  }

  /** Starts the PostgreSQL again, which has ended. */
  async restartPostgres(): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.postgres.restart()
      } catch (error) {
        // Its last processes may still be about to end.
        if (attempt === 20) throw error
        await new Promise((resolve) => setTimeout(resolve, 500))
      }
    }
  }

  /** Ends the primary for good: its standby takes over. */
  async failOver(): Promise<void> {
    const replication = this.replication!
    await until(async () => {
      const { rows } = await this.query(
        `select from pg_stat_replication where state = 'streaming' and sync_state = 'sync'`
      )
      return rows.length === 1
    })
    await replication.killPrimary('SIGKILL')
    await replication.promote()
    this.postgres = replication.standby
    this.dbUri = replication.onStandby(this.dbUri)
  }
}
