import type pg from 'pg'
import { type DatabaseIdentity, NatsBus, prefixOf } from '../../lib/bus/index.js'
import type { ResolvedOptions } from '../../lib/config/index.js'
import { OID } from '../../lib/durable/index.js'
import { unnamedMessageOf } from '../../lib/errors.js'
import type { Reached } from './connection.js'
import type { Report } from './report.js'

/** Connects to NATS as a node does, which tries its permissions, too. Nobody hears anything of it. */
export async function checkBus(report: Report, { client }: Reached, options: ResolvedOptions): Promise<void> {
  if (options.bus === undefined) return
  const prefix = options.busPrefix ?? (await defaultPrefix(client, options.listenChannel))
  if (prefix === undefined) {
    report.error(
      'bus',
      'PGWS_BUS needs the schema "pgws", which is not installed, or cannot be read by this role'
    )
    return
  }
  let problem = 'no server answers'
  const failed = ({ err }: { err?: unknown }) => {
    problem = unnamedMessageOf(err)
  }
  const nothing = () => {}
  const bus = new NatsBus({
    servers: options.bus,
    credentials: options.busCredentials,
    ca: options.busCa,
    prefix: () => prefix,
    node: 'doctor',
    log: { debug: nothing, info: nothing, warn: failed, error: failed }
  })
  const handlers = {
    announced: nothing,
    beat: nothing,
    received: nothing,
    interrupted: nothing,
    restored: nothing
  }
  try {
    await bus.start(handlers)
    if (bus.up) report.ok('bus', `NATS is there, and allows what nodes do below "${prefix}.>"`)
    else report.error('bus', `PGWS_BUS: no NATS server can be used: ${problem}`)
  } catch (error) {
    report.error('bus', error)
  } finally {
    await bus.close()
  }
}

async function defaultPrefix(client: pg.Client, listenChannel: string): Promise<string | undefined> {
  try {
    const { rows } = await client.query<DatabaseIdentity>(
      `select k.secret, s.epoch, ${OID} as oid from pgws.secret k, pgws.settings s`
    )
    const [row] = rows
    return row && prefixOf(row, listenChannel)
  } catch {
    // The check of the schema says why.
    return undefined
  }
}
