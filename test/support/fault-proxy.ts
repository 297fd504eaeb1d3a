import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import type { Owner } from './helper.js'
import { NotificationFilter } from './notification-filter.js'

/** Cuts messages out of what a server sends on one connection. */
export interface MessageFilter {
  pass(chunk: Buffer, drop: (name: string, payload: string) => boolean): Buffer
}

interface Link {
  client: Socket
  server: Socket
  /** Whether the link is open, but passes nothing, as if packets were dropped without a FIN. */
  silent: boolean
  /** Whether it passes nothing to the client. */
  muted: boolean
  /** How many more bytes from the server pass before the link is cut; undefined: it is not cut. */
  bytesLeft: number | undefined
  /** Whether the server's answer to the client is incomplete. */
  busy: boolean
  /** Whether the server's next answer is to an injected statement, and not for the client. */
  swallow: boolean
  filter: MessageFilter
  /** Actions that wait because data is delayed, in order, and when they are due. */
  delayed: { at: number; action: () => unknown }[]
}

/** A TCP proxy in front of PostgreSQL, or of a nats-server, that causes real network faults. */
export class FaultProxy {
  readonly port: number
  /** How new connections are treated. With `silence`, they are accepted and never answered. */
  mode: 'pass' | 'silence' | 'refuse' = 'pass'
  /** By how much data is delayed, in milliseconds. */
  delay = 0
  /** Which notifications, or messages of NATS, of the server are dropped. Set it before there are connections. */
  drop: ((channel: string, payload: string) => boolean) | undefined
  /** Makes what reads the protocol of the server. Set it before there are connections. */
  filter: () => MessageFilter = () => new NotificationFilter()
  /** How many bytes the server has sent. */
  bytesFromServer = 0
  readonly #links = new Set<Link>()

  private constructor(port: number) {
    this.port = port
  }

  /** @param target the path of the Unix socket, or a port */
  static async start(t: Owner, target: string | number, host = '127.0.0.1', port = 0): Promise<FaultProxy> {
    const server = createServer()
    server.listen(port, host)
    await once(server, 'listening')
    const proxy = new FaultProxy((server.address() as AddressInfo).port)
    server.on('connection', (client) => proxy.#accept(client, target))
    t.teardown(() => {
      proxy.cut()
      server.close()
    })
    return proxy
  }

  /** The connection string of a database through the proxy. */
  uri(dbUri: string, host = '127.0.0.1'): string {
    const name = /\/([^/?]+)\?/.exec(dbUri)![1]
    return `postgresql://postgres@${host}:${this.port}/${name}`
  }

  get connections(): number {
    return this.#links.size
  }

  /** Drops all data on the existing connections without closing them. */
  silence(): void {
    for (const link of this.#links) link.silent = true
  }

  /** Drops what the server sends on the existing connections; what clients send arrives. */
  mute(): void {
    for (const link of this.#links) link.muted = true
  }

  /** Closes the existing connections. */
  cut(): void {
    for (const { client, server } of this.#links) {
      client.destroy()
      server.destroy()
    }
  }

  /** Closes each connection after a number of bytes from the server, which may be within a message. */
  cutAfter(bytes: number): void {
    for (const link of this.#links) link.bytesLeft = bytes
  }

  /** Runs a statement on each session, between two statements of the client. The client does not see it. */
  async inject(sql: string): Promise<void> {
    const text = Buffer.from(`${sql}\0`)
    const message = Buffer.alloc(5 + text.length)
    message.write('Q')
    message.writeInt32BE(4 + text.length, 1)
    text.copy(message, 5)
    await Promise.all(
      [...this.#links].map(async (link) => {
        while (link.busy) await once(link.server, 'data')
        link.swallow = true
        link.server.write(message)
      })
    )
  }

  #accept(client: Socket, target: string | number): void {
    client.on('error', () => {})
    if (this.mode === 'refuse') {
      client.destroy()
      return
    }
    const server = typeof target === 'number' ? connect(target, '127.0.0.1') : connect(target)
    server.on('error', () => client.destroy())
    const link: Link = {
      client,
      server,
      silent: this.mode === 'silence',
      muted: false,
      bytesLeft: undefined,
      busy: true,
      swallow: false,
      filter: this.filter(),
      delayed: []
    }
    this.#links.add(link)
    client.on('data', (chunk) => {
      link.busy = true
      this.#later(link, () => !link.silent && server.write(chunk))
    })
    server.on('data', (chunk) => {
      if (isIdle(chunk)) link.busy = false
      const passed = this.drop === undefined ? chunk : link.filter.pass(chunk, this.drop)
      this.#later(link, () => this.#toClient(link, passed))
    })
    client.on('close', () => {
      this.#links.delete(link)
      server.destroy()
    })
    server.on('close', () => {
      if (!link.silent) client.destroy()
    })
  }

  /** Actions of a link keep their order, also while the delay changes. */
  #later(link: Link, action: () => unknown): void {
    const { delayed } = link
    if (this.delay === 0 && delayed.length === 0) {
      action()
      return
    }
    delayed.push({ at: performance.now() + this.delay, action })
    if (delayed.length === 1) this.#passDelayed(link)
  }

  #passDelayed(link: Link): void {
    const [next] = link.delayed
    if (next === undefined) return
    setTimeout(
      () => {
        next.action()
        link.delayed.shift()
        this.#passDelayed(link)
      },
      Math.max(0, next.at - performance.now())
    )
  }

  #toClient(link: Link, chunk: Buffer): void {
    this.bytesFromServer += chunk.length
    if (link.silent || link.muted) return
    if (link.swallow) {
      if (isIdle(chunk)) link.swallow = false
      return
    }
    if (link.bytesLeft === undefined) {
      link.client.write(chunk)
      return
    }
    const part = chunk.subarray(0, link.bytesLeft)
    link.bytesLeft -= part.length
    link.client.write(part, () => {
      if (link.bytesLeft === 0) link.client.destroy()
    })
  }
}

/** Whether an answer ends with ReadyForQuery and the state "idle". */
function isIdle(chunk: Buffer): boolean {
  return chunk.subarray(-6).equals(Buffer.from('Z\0\0\0\x05I'))
}
