import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import type { Owner } from './helper.js'

interface Link {
  client: Socket
  server: Socket
  /** Silent: open, and nothing passes (packets that are dropped, without a FIN). */
  silent: boolean
  /** How many more bytes from the server pass before the link is cut. */
  bytesLeft: number | undefined
  /** The client has asked, and the server has not answered all of it. */
  busy: boolean
  /** The server's answer to an injected statement is not for the client. */
  swallow: boolean
}

/** A TCP proxy before a PostgreSQL, which causes the faults of a network for real. */
export class FaultProxy {
  readonly port: number
  /** What new connections get: `pass`, `silence` (accepted, and no answer), or `refuse`. */
  mode: 'pass' | 'silence' | 'refuse' = 'pass'
  /** Holds back what passes, in milliseconds. */
  delay = 0
  /** How many bytes have come from the server. */
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

  /** The connection string of a database that is reached through the proxy. */
  uri(dbUri: string, host = '127.0.0.1'): string {
    const name = /\/([^/?]+)\?/.exec(dbUri)![1]
    return `postgresql://postgres@${host}:${this.port}/${name}`
  }

  get connections(): number {
    return this.#links.size
  }

  /** From now on nothing passes on the connections that are there, and neither end is told. */
  silence(): void {
    for (const link of this.#links) link.silent = true
  }

  /** Cuts the connections that are there. */
  cut(): void {
    for (const { client, server } of this.#links) {
      client.destroy()
      server.destroy()
    }
  }

  /** Cuts each connection after so many bytes from the server: within a message, or before the first. */
  cutAfter(bytes: number): void {
    for (const link of this.#links) link.bytesLeft = bytes
  }

  /** Runs a statement on each session, unseen by the client, and between two of the client's own. */
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
      bytesLeft: undefined,
      busy: true,
      swallow: false
    }
    this.#links.add(link)
    client.on('data', (chunk) => {
      link.busy = true
      this.#later(() => !link.silent && server.write(chunk))
    })
    server.on('data', (chunk) => {
      if (isIdle(chunk)) link.busy = false
      this.#later(() => this.#toClient(link, chunk))
    })
    client.on('close', () => {
      this.#links.delete(link)
      server.destroy()
    })
    server.on('close', () => {
      if (!link.silent) client.destroy()
    })
  }

  #later(action: () => unknown): void {
    if (this.delay === 0) action()
    else setTimeout(action, this.delay)
  }

  #toClient(link: Link, chunk: Buffer): void {
    this.bytesFromServer += chunk.length
    if (link.silent) return
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

/** ReadyForQuery, idle, is the last message of an answer. */
function isIdle(chunk: Buffer): boolean {
  return chunk.subarray(-6).equals(Buffer.from('Z\0\0\0\x05I'))
}
