import { errors } from '../../errors.js'
import { isObject } from '../../json-value.js'
import type { PgQuery } from '../../postgres/index.js'
import { attempt, channelOf } from '../packets/packet.js'
import type { Tables } from './tables.js'

/** How long a row's transaction may take, in milliseconds. The row's age counts from the transaction's beginning. */
const MARGIN = 2000

export interface AttachmentCleanupOptions {
  uid: string
  channelPrefix: string
  tables: Tables
  heartbeatInterval: number
  heartbeatTimeout: number
  cleanupInterval: number
  query: PgQuery
  /** Resolves when every message that has arrived so far has been delivered. */
  drained: () => Promise<unknown>
  onError: (error: Error) => void
}

/** The maximum number of other nodes. Any role that may run SQL can send marks of nodes that do not exist. */
const MAX_NODES = 1000

/** What nodes send each other about the attachments that they have read. Times are Unix seconds of the database. */
interface Mark {
  uid: string
  /** When the mark was sent. */
  at: number
  /** The sender has read everything that was committed before this time. */
  read: number | null
  /** Asks the other nodes for their marks. */
  hello?: boolean
  leaving?: boolean
}

/**
 * Deletes the attachments that every node has read. For this, nodes send each other marks. Notifications arrive in the
 * order of commits. So when a node receives its own mark, and has delivered everything before it, it has read all that
 * was committed before the mark was sent. For nodes that send no marks (@socket.io/postgres-adapter), only the age of an
 * attachment counts.
 */
export class AttachmentCleanup {
  /** The database channel of the marks. No namespace has it, because the names of namespaces begin with "/". */
  readonly channel: string
  readonly #options: AttachmentCleanupOptions
  readonly #others = new Map<string, { read: number | null; heard: number }>()
  #read: number | null = null
  #timer: NodeJS.Timeout | undefined
  #cleaner: NodeJS.Timeout | undefined
  #started = 0

  constructor(options: AttachmentCleanupOptions) {
    this.#options = options
    this.channel = channelOf(options.channelPrefix, '')
  }

  start(): void {
    const { heartbeatInterval, cleanupInterval, onError } = this.#options
    this.#started = performance.now()
    this.#timer = setInterval(() => this.sendMark(), heartbeatInterval).unref()
    this.#cleaner = setInterval(() => this.#clean().catch(onError), cleanupInterval).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
    clearInterval(this.#cleaner)
  }

  /** Sends this node's mark. A failure is ignored, because the next mark says the same. */
  async sendMark(more: { hello?: boolean; leaving?: boolean } = {}): Promise<void> {
    const { query, uid } = this.#options
    const mark = JSON.stringify({ uid, read: this.#read, ...more }).slice(1)
    await query(
      `select pg_catalog.pg_notify($1, pg_catalog.concat('{"at":', extract(epoch from pg_catalog.clock_timestamp()), ',', $2::pg_catalog.text))`,
      [this.channel, mark]
    ).catch(() => {})
  }

  /** Takes a notification on `channel`. @throws SocketIoPacketLost if it is not a mark */
  receive(payload: string): void {
    const { uid, at, read, hello, leaving } = readMark(payload)
    if (uid === this.#options.uid) {
      this.#options.drained().then(() => {
        this.#read = Math.max(this.#read ?? 0, at)
      })
    } else if (leaving) this.#others.delete(uid)
    else if (this.#others.has(uid) || this.#others.size < MAX_NODES) {
      this.#others.set(uid, { read, heard: performance.now() })
      if (hello) this.sendMark()
    }
  }

  async #clean(): Promise<void> {
    const { query, tables, cleanupInterval, heartbeatInterval, heartbeatTimeout } = this.#options
    const now = performance.now()
    for (const [uid, { heard }] of this.#others) {
      if (now - heard > heartbeatTimeout) this.#others.delete(uid)
    }
    const marks = [this.#read, ...[...this.#others.values()].map(({ read }) => read)]
    const known = marks.filter((mark) => mark !== null)
    // Every node needs the time to send a mark.
    if (known.length < marks.length || now - this.#started < heartbeatInterval) return
    await query(
      `delete from ${tables.attachments}
       where created_at operator(pg_catalog.<) least(
         pg_catalog.now() operator(pg_catalog.-) pg_catalog.make_interval(secs => $1),
         pg_catalog.to_timestamp($2) operator(pg_catalog.-) pg_catalog.make_interval(secs => $3)
       )`,
      [cleanupInterval / 1000, Math.min(...known), MARGIN / 1000]
    )
  }
}

/**
 * Reads a mark. It is checked, because any role of the database may notify the channel, and one invalid time would stop
 * the cleanup for good.
 * @throws SocketIoPacketLost
 */
function readMark(payload: string): Mark {
  const mark = attempt((): unknown => JSON.parse(payload))
  const { uid, at, read, leaving } = isObject(mark) ? mark : {}
  const marks = Number.isFinite(at) && (read === null || Number.isFinite(read))
  // `hello` may be anything: it only causes an answer.
  if (typeof uid === 'string' && (marks || leaving === true)) return mark as Mark
  throw new errors.SocketIoPacketLost('it is not the mark of a node')
}
