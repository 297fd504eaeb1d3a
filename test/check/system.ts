import { join } from 'node:path'
import type { QueryResult } from 'pg'
import type { EmbeddedPostgres } from '../../lib/embedded-postgres/server.js'
import { CLI, freePort } from '../support/app.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { install, query, until } from '../support/helper.js'
import type { NatsServer } from '../support/nats.js'
import { NatsFilter } from '../support/nats-filter.js'
import { NatsRoutes } from '../support/nats-routes.js'
import { createDatabase, testPostgres } from '../support/postgres.js'
import { previousRelease, RELEASES } from '../support/previous-release.js'
import { portOf, type Replication, withStandby } from '../support/standby.js'
import { prepare } from './channels.js'
import { Node } from './node.js'
import type { Random } from './random.js'
import type { Owner, Target } from './target.js'

/** Commits must survive a crash of PostgreSQL, but not of the machine. */
const SETTINGS = { synchronous_commit: 'on', restart_after_crash: 'on' }

export interface SystemOptions {
  /** The number of servers of this version. */
  nodes: number
  /** Whether PostgreSQL has a synchronous standby. */
  standby: boolean
  /** Whether there is a server of the previous release, too. */
  previous: boolean
  /** The bus between the servers. */
  bus: 'notify' | 'nats'
}

/** The proxy between a node and a nats-server. */
async function wayTo(owner: Owner, nats: NatsServer): Promise<FaultProxy> {
  const proxy = await FaultProxy.start(owner, nats.port)
  proxy.filter = () => new NatsFilter()
  return proxy
}

/** A PostgreSQL, perhaps with its standby, the nodes, and perhaps a cluster of NATS servers between them. */
export class System implements Target {
  readonly nodes: Node[]
  readonly replication: Replication | undefined
  readonly nats: NatsRoutes | undefined
  postgres: EmbeddedPostgres
  dbUri: string

  private constructor(
    nodes: Node[],
    postgres: EmbeddedPostgres,
    dbUri: string,
    replication: Replication | undefined,
    nats: NatsRoutes | undefined
  ) {
    this.nodes = nodes
    this.postgres = postgres
    this.dbUri = dbUri
    this.replication = replication
    this.nats = nats
  }

  /** Starts everything, and waits until it works. */
  static async start(owner: Owner, { nodes: count, standby, previous, bus }: SystemOptions) {
    const replication = standby
      ? await withStandby(owner, { synchronous: true, settings: SETTINGS })
      : undefined
    const postgres = replication?.primary ?? (await testPostgres(owner, SETTINGS))
    const dbUri = await createDatabase(postgres)
    await install(dbUri)
    await prepare(dbUri)
    const nats = bus === 'nats' ? await NatsRoutes.start(owner) : undefined
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
      const node = new Node({
        name: command === CLI ? `node-${i}` : `previous-node-${i}`,
        port: await freePort(),
        proxies,
        bus: nats === undefined ? undefined : await wayTo(owner, nats.servers[i % nats.servers.length]!),
        dbUri: `postgresql://postgres@${hosts}/${name}?target_session_attrs=read-write`,
        cli: command
      })
      owner.teardown(() => node.end('SIGKILL'))
      node.start()
      nodes.push(node)
    }
    const system = new System(nodes, postgres, dbUri, replication, nats)
    await system.healthy()
    await system.connected()
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

  /** Waits until all nodes are connected to their bus. */
  async connected(): Promise<void> {
    await until(async () => (await Promise.all(this.nodes.map((node) => node.connected()))).every(Boolean))
  }

  /** Waits until all nodes have the bus, and it carries their messages. */
  async unanimous(): Promise<void> {
    await until(async () => (await Promise.all(this.nodes.map((node) => node.unanimous()))).every(Boolean))
  }

  /** Starts PostgreSQL again after it has ended. */
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

  /** Ends the primary, and promotes its standby. */
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
