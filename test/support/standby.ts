import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { EmbeddedPostgres } from '../../lib/embedded-postgres/server.js'
import { freePort } from './app.js'
import { FaultProxy } from './fault-proxy.js'
import { type Owner, query, until } from './helper.js'
import { copyData, testPostgres } from './postgres.js'

/** The `application_name` of the standby. */
const NAME = 'standby'

export interface ReplicationOptions {
  /**
   * Whether the primary acknowledges a commit only when the standby has it, too (`synchronous_standby_names`). While the
   * standby is disconnected, commits wait.
   */
  synchronous?: boolean
  /** More settings for both servers. */
  settings?: Record<string, string>
}

/** A primary that streams to a hot standby. */
export class Replication {
  readonly primary: EmbeddedPostgres
  readonly standby: EmbeddedPostgres
  /** The standby streams through this proxy, which can cut it off. */
  readonly link: FaultProxy

  constructor(primary: EmbeddedPostgres, standby: EmbeddedPostgres, link: FaultProxy) {
    this.primary = primary
    this.standby = standby
    this.link = link
  }

  /**
   * A connection string with several hosts, with which an application finds the primary.
   * @param dbUri the connection string of the database on either server
   * @param hosts servers, or texts `host:port`, in the order in which they are tried
   * @param attributes the value of `target_session_attrs`; empty: none
   */
  uri(
    dbUri: string,
    hosts: (EmbeddedPostgres | string)[] = [this.primary, this.standby],
    attributes = 'read-write'
  ): string {
    const list = hosts
      .map((host) => (typeof host === 'string' ? host : `127.0.0.1:${portOf(host)}`))
      .join(',')
    const query = attributes && `?target_session_attrs=${attributes}`
    return `postgresql://postgres@${list}/${nameOf(dbUri)}${query}`
  }

  /** The connection string of the same database on the standby. */
  onStandby(dbUri: string): string {
    return this.standby.uri.replace('/postgres?', `/${nameOf(dbUri)}?`)
  }

  /** Waits until the standby has replayed everything that the primary has written so far. */
  async replicated(): Promise<void> {
    const { rows } = await query(this.primary.uri, 'select pg_current_wal_insert_lsn() as lsn')
    const replayed = async () => {
      const text = 'select pg_last_wal_replay_lsn() >= $1 as replayed'
      return (await query(this.standby.uri, text, [rows[0]!.lsn])).rows[0]!.replayed
    }
    await until(replayed)
  }

  /** Kills the primary. The standby stays a standby. */
  async killPrimary(signal: NodeJS.Signals): Promise<void> {
    this.primary.kill(signal)
    await this.primary.exited
  }

  /** Makes the standby a primary. */
  async promote(): Promise<void> {
    const { rows } = await query(this.standby.uri, 'select pg_promote() as promoted')
    if (!rows[0]!.promoted) throw new Error('the standby was not promoted')
  }
}

/** Starts a primary and a standby, and waits until the primary streams. Both are stopped after the test. */
export async function withStandby(
  t: Owner,
  { synchronous = false, settings = {} }: ReplicationOptions = {}
): Promise<Replication> {
  const common = {
    listen_addresses: '127.0.0.1',
    wal_level: 'replica',
    // A standby receives only what has been flushed; otherwise the tests would have to wait for the flush.
    synchronous_commit: 'on',
    ...settings
  }
  const primary = await testPostgres(t, {
    ...common,
    port: String(await freePort()),
    ...(synchronous && { synchronous_standby_names: NAME })
  })
  // The package of the binaries has no pg_basebackup, so the data of the stopped server is copied.
  await primary.stop()
  const link = await FaultProxy.start(t, portOf(primary))
  const standby = await testPostgres(
    t,
    {
      ...common,
      port: String(await freePort()),
      primary_conninfo: `host=127.0.0.1 port=${link.port} user=postgres application_name=${NAME}`,
      wal_retrieve_retry_interval: '100ms'
    },
    (folder) => writeFileSync(join(copyData(primary.dataFolder, folder), 'standby.signal'), '')
  ).finally(() => primary.restart())
  const replication = new Replication(primary, standby, link)
  await until(async () => {
    const { rows } = await query(primary.uri, 'select state from pg_stat_replication')
    return rows[0]?.state === 'streaming'
  })
  return replication
}

/** The TCP port of a server. Its Unix socket has the same number. */
export function portOf({ uri }: EmbeddedPostgres): number {
  return Number(/[?&]port=(\d+)/.exec(uri)![1])
}

function nameOf(dbUri: string): string {
  return /\/([^/?]+)(?:\?|$)/.exec(dbUri)![1]!
}
