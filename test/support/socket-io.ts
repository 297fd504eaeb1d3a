import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import pg from 'pg'
import { Server, type ServerOptions } from 'socket.io'
import { io as connect, type ManagerOptions, type Socket, type SocketOptions } from 'socket.io-client'
import type { Test } from 'tap'
import { type AdapterOptions, createAdapter } from '../../socket.io.js'
import { DEADLINE, query, until } from './helper.js'

/** A Socket.IO server with its adapter. */
export interface Node {
  io: Server
  port: number
  pool: pg.Pool
  failures: Error[]
}

type Factory = (pool: pg.Pool, options: object) => unknown

/** Starts a Socket.IO server. It is closed after the test. */
export async function startNode(
  t: Test,
  dbUri: string,
  {
    adapter = {},
    server = {},
    factory = createAdapter,
    poolUri = dbUri
  }: {
    adapter?: AdapterOptions
    server?: Partial<ServerOptions>
    factory?: Factory
    poolUri?: string
  } = {}
): Promise<Node> {
  const pool = new pg.Pool({ connectionString: poolUri, max: 4 })
  const failures: Error[] = []
  const http = createServer()
  const io = new Server(http, {
    transports: ['websocket'],
    ...server,
    adapter: factory(pool, { errorHandler: (error: Error) => failures.push(error), ...adapter }) as never
  })
  pool.on('error', () => {})
  t.teardown(async () => {
    await io.close()
    // @socket.io/postgres-adapter keeps a client of the pool, so ending the pool would wait forever.
    if (factory === createAdapter) await pool.end()
  })
  http.listen(0, '127.0.0.1')
  await once(http, 'listening')
  return { io, port: (http.address() as AddressInfo).port, pool, failures }
}

/** Starts several Socket.IO servers, and waits until they know each other. */
export async function startNodes(
  t: Test,
  dbUri: string,
  count: number,
  options: Parameters<typeof startNode>[2] = {}
): Promise<Node[]> {
  const nodes = await Promise.all(Array.from({ length: count }, () => startNode(t, dbUri, options)))
  await acquainted(nodes)
  if (options.server?.connectionStateRecovery) await Promise.all(nodes.map(knowsPositions))
  return nodes
}

/** Resolves when a node's packets have positions. Clients cannot recover from earlier packets. */
export async function knowsPositions({ io, port }: Node): Promise<void> {
  const probe = connect(`http://127.0.0.1:${port}`, { transports: ['websocket'], forceNew: true })
  await until(() => {
    io.local.emit('probe')
    const { _lastOffset: offset = '-' } = probe as unknown as { _lastOffset?: string }
    return offset !== '-'
  })
  probe.disconnect()
  await until(() => io.sockets.sockets.size === 0)
}

/** Waits until each node knows all the others. */
export async function acquainted(nodes: Node[], nsp = '/', count = nodes.length): Promise<void> {
  await until(async () => {
    const counts = await Promise.all(nodes.map(({ io }) => io.of(nsp).adapter.serverCount()))
    return counts.every((one) => one === count)
  })
}

/** A client that collects the events that it receives: their names and values. */
export class Client {
  readonly socket: Socket
  readonly events: unknown[][] = []

  constructor(socket: Socket) {
    this.socket = socket
    socket.onAny((...event) => this.events.push(event))
  }

  /** The first value of each event with a name. */
  values(name: string): unknown[] {
    return this.events.filter(([own]) => own === name).map(([, value]) => value)
  }

  /** Resolves with the first values of the events with a name, when `count` of them have been received. */
  async received(name: string, count: number, timeout = DEADLINE): Promise<unknown[]> {
    await until(() => this.values(name).length >= count, timeout).catch(() => {
      throw new Error(`got ${this.values(name).length} of ${count} "${name}"`)
    })
    return this.values(name)
  }
}

/** Connects a client that does not reconnect. */
export async function open(
  t: Test,
  { port }: { port: number },
  nsp = '/',
  options: Partial<ManagerOptions & SocketOptions> = {}
): Promise<Client> {
  const socket = connect(`http://127.0.0.1:${port}${nsp}`, {
    transports: ['websocket'],
    reconnection: false,
    forceNew: true,
    ...options
  })
  t.teardown(() => socket.disconnect())
  const client = new Client(socket)
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('connect_error', reject)
  })
  return client
}

/** The number of packets that a node has reported as lost. */
export const lost = ({ failures }: Node) => failures.filter(({ message }) => /was lost/.test(message)).length

/** Inserts a row, and notifies the nodes of it as one of them would. */
export async function insertAndNotify(dbUri: string, payload: Uint8Array): Promise<void> {
  await query(
    dbUri,
    `with row as (insert into socket_io_attachments (payload) values ($1) returning id)
     select pg_notify('socket.io#/', json_build_object('uid', 'stranger', 'nsp', '/', 'type', 3, 'attachmentId', id::text)::text)
     from row`,
    [payload]
  )
}
