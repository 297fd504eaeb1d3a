import { createConnection } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { checkServerIdentity, type PeerCertificate } from 'node:tls'
import type { Authenticator, NatsConnection as Client, Msg, Subscription } from '@nats-io/transport-node'
import { asError, errors } from '../errors.js'
import type { NatsModule } from './nats-credentials.js'

/** How long a server may take to accept a connection. */
const CONNECT_TIMEOUT = 3000
/** How long a server may take to answer a ping behind what was published. A connection that takes longer is given up. */
const CONFIRM_TIMEOUT = 2000
/** How often the client pings a server at rest. After two that it has not answered, the connection is given up. */
const PING_INTERVAL = 3000

/**
 * The smallest max_payload with which a server can be used. What nodes send has up to 8,000 bytes, as a notification; longer
 * messages are read from the database, and longer beats are split.
 */
export const MIN_PAYLOAD = 16 * 1024

export interface ConnectionOptions {
  nats: NatsModule
  /** With the scheme nats: or tls:. */
  server: URL
  authenticator: Authenticator | undefined
  /** Certificates in PEM that are trusted instead of those of Node.js. */
  ca: string | undefined
  /** The name that the server's monitoring shows. */
  name: string
  /** Is called once, after the connection has failed. */
  onLost: (error: Error) => void
}

/**
 * One connection to one server. It does not reconnect, so nothing that was meant for it is sent later on another one: what
 * a server has not confirmed is rejected, and the caller repeats it.
 */
export class NatsConnection {
  readonly #client: Client
  readonly #onLost: (error: Error) => void
  readonly #subscriptions = new Map<string, Subscription>()
  /** What waits for an answer of the server. */
  readonly #waiting = new Set<(error: Error) => void>()
  #sharedPing: Promise<void> | undefined
  #error: Error | undefined

  private constructor(client: Client, onLost: (error: Error) => void) {
    this.#client = client
    this.#onLost = onLost
    void client
      .closed()
      .then((error) => this.fail(error ?? new Error('the server has closed the connection')))
    this.#watch().catch((error) => this.fail(asError(error)))
  }

  /** @throws InvalidOption if what listens there is no NATS server, or one that cannot be used; otherwise what the client throws */
  static async open({
    nats,
    server,
    authenticator,
    ca,
    name,
    onLost
  }: ConnectionOptions): Promise<NatsConnection> {
    await findServer(server)
    const client = await nats.connect({
      servers: server.host,
      name,
      reconnect: false,
      timeout: CONNECT_TIMEOUT,
      pingInterval: PING_INTERVAL,
      ignoreClusterUpdates: true,
      noAsyncTraces: true,
      tls: server.protocol === 'tls:' ? tlsOptions(server, ca) : null,
      ...(authenticator && { authenticator })
    })
    const connection = new NatsConnection(client, onLost)
    if (connection.maxPayload < MIN_PAYLOAD) {
      connection.fail(new Error('not used'))
      throw new errors.InvalidOption(
        'bus',
        `(PGWS_BUS): the NATS server at ${server.host} takes messages of up to ${connection.maxPayload} bytes, and nodes need ${MIN_PAYLOAD}: raise max_payload in its configuration`
      )
    }
    return connection
  }

  /** Why the connection has ended; undefined: it has not. */
  get error(): Error | undefined {
    return this.#error
  }

  /** The largest message that the server takes, in bytes. */
  get maxPayload(): number {
    return this.#client.info?.max_payload ?? MIN_PAYLOAD
  }

  publish(subject: string, text: string): void {
    this.#client.publish(subject, text)
  }

  /** Does nothing if the subject is subscribed. */
  subscribe(subject: string, receive: (bytes: Uint8Array) => void): void {
    if (this.#error !== undefined || this.#subscriptions.has(subject)) return
    const callback = (error: Error | null, message: Msg) => {
      if (error !== null) this.fail(error)
      else if (this.#error === undefined) receive(message.data)
    }
    this.#subscriptions.set(subject, this.#client.subscribe(subject, { callback }))
  }

  unsubscribe(subject: string): void {
    const subscription = this.#subscriptions.get(subject)
    if (subscription === undefined || this.#error !== undefined) return
    this.#subscriptions.delete(subject)
    subscription.unsubscribe()
  }

  /**
   * Resolves when the server has taken everything so far. It answers in order, so a pong confirms what was sent before
   * the ping (https://docs.nats.io/reference/reference-protocols/nats-protocol#ping-pong).
   * @throws the reason why the connection has ended
   */
  async confirm(): Promise<void> {
    if (this.#error !== undefined) throw this.#error
    await new Promise<void>((resolve, reject) => {
      const fail = (error: Error) => {
        clearTimeout(timer)
        reject(error)
      }
      // After a pause of this process, the timer fires before an answer that is already there is read.
      const timer = setTimeout(() => setImmediate(() => isWaiting() && this.fail(slow())), CONFIRM_TIMEOUT)
      const isWaiting = () => this.#waiting.has(fail)
      const slow = () => new Error(`the server has not answered within ${CONFIRM_TIMEOUT / 1000} s`)
      this.#waiting.add(fail)
      this.#client.flush().then(
        () => {
          this.#waiting.delete(fail)
          clearTimeout(timer)
          resolve()
        },
        (error) => this.fail(asError(error))
      )
    })
    // The server reports what it has refused before the pong, but the client passes it on later.
    await nextTurn()
    if (this.#error !== undefined) throw this.#error
  }

  /** The same, and all callers of one turn of the event loop share an answer. */
  confirmTogether(): Promise<void> {
    this.#sharedPing ??= nextTurn().then(() => {
      this.#sharedPing = undefined
      return this.confirm()
    })
    return this.#sharedPing
  }

  /** Ends the connection at once. What was not confirmed is rejected. */
  fail(error: Error): void {
    if (this.#error !== undefined) return
    this.#error = error
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const reject of waiting) reject(error)
    this.#client.close().catch(() => {})
    this.#onLost(error)
  }

  /** The server reports what it refuses without a relation to what was sent. */
  async #watch(): Promise<void> {
    for await (const status of this.#client.status()) {
      if (status.type === 'error') this.fail(status.error)
    }
  }
}

/** What the client hands to tls.connect(), too. */
function tlsOptions(server: URL, ca: string | undefined) {
  return {
    ...(ca !== undefined && { ca }),
    // The client would compare the certificate of an IP address with "localhost".
    checkServerIdentity: (_name: string, certificate: PeerCertificate) =>
      checkServerIdentity(hostOf(server), certificate)
  }
}

/** Without the brackets of an IPv6 address. */
function hostOf(server: URL): string {
  return server.hostname.replace(/^\[|\]$/g, '')
}

/**
 * Waits for the greeting of a NATS server. The client does not close the connection if none comes, and would leave one
 * behind with each attempt.
 * @throws InvalidOption if something else answers
 */
async function findServer(server: URL): Promise<void> {
  const socket = createConnection({
    host: hostOf(server),
    port: Number(server.port),
    timeout: CONNECT_TIMEOUT
  })
  try {
    const greeting = await new Promise<string>((resolve, reject) => {
      socket.once('data', (bytes) => resolve(bytes.subarray(0, 5).toString('latin1')))
      socket.once('timeout', () => reject(new Error(`no answer within ${CONNECT_TIMEOUT / 1000} s`)))
      socket.once('close', () => reject(new Error('the connection was closed')))
      socket.once('error', reject)
    })
    if (greeting === 'INFO ') return
  } finally {
    socket.on('error', () => {})
    socket.destroy()
  }
  throw new errors.InvalidOption('bus', `(PGWS_BUS): what listens at ${server.host} is no NATS server`)
}
