import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { WebSocket } from 'ws'
import { type Owner, token, until } from '../support/helper.js'
import { raw, sdk } from '../support/sdk.js'
import { DURABLE, EPHEMERAL, ROWS, WATCHED } from './channels.js'
import type { History, Transaction } from './history.js'
import type { Random } from './random.js'
import type { Target } from './target.js'

const APPLICATION = 'check writer'

/** The timeout of an attempt to publish over HTTP, in milliseconds. */
const ATTEMPT = 3000

/** All writers of a run. */
export class Writers {
  readonly #target: Target
  readonly #history: History
  #over = false
  #count = 0
  readonly #running: Promise<void>[] = []

  constructor(target: Target, history: History) {
    this.#target = target
    this.#history = history
  }

  /** @param pause the longest pause between two transactions of a writer, in milliseconds */
  start(owner: Owner, random: Random, { sql = 6, http = 3, sockets = 2, sdks = 1, pause = 60 } = {}): void {
    for (let i = 0; i < sql; i++) this.#running.push(this.#writeSql(random.fork(), pause))
    for (let i = 0; i < http; i++) this.#running.push(this.#post(random.fork(), pause))
    for (let i = 0; i < sockets; i++) this.#running.push(this.#send(i, random.fork(), pause))
    for (let i = 0; i < sdks; i++) this.#running.push(this.#publish(owner, random.fork(), pause))
  }

  /** Ends the writers, and determines the outcomes of transactions whose senders got no answer. */
  async stop(): Promise<void> {
    this.#over = true
    await Promise.all(this.#running)
    await until(async () => {
      const { rows } = await this.#target.query(
        'select from pg_stat_activity where application_name = $1 and datname = current_database()',
        [APPLICATION]
      )
      return rows.length === 0
    })
    const { rows } = await this.#target.query('select id from committed')
    const committed = new Set(rows.map(({ id }) => id))
    for (const transaction of this.#history.transactions) {
      if (!transaction.way.startsWith('SQL') || transaction.outcome === 'rolled back') continue
      if (committed.has(transaction.id)) transaction.outcome = 'committed'
      else if (transaction.outcome === 'committed' && transaction.way === 'SQL') {
        throw new Error(`PostgreSQL has lost ${transaction.id}, which it had acknowledged`)
      } else {
        // This includes what was acknowledged before it was on disk. If it was lost, nobody may have received it.
        transaction.outcome = 'rolled back'
        delete transaction.acknowledged
      }
    }
  }

  #begin(way: string): Transaction {
    const transaction: Transaction = {
      id: `t${++this.#count}`,
      way,
      messages: [],
      published: this.#history.now(),
      outcome: 'unknown'
    }
    this.#history.transactions.push(transaction)
    return transaction
  }

  async #writeSql(random: Random, pause: number): Promise<void> {
    while (!this.#over) {
      const client = new pg.Client({
        connectionString: this.#target.dbUri,
        application_name: APPLICATION,
        connectionTimeoutMillis: 5000
      })
      client.on('error', () => {})
      try {
        await client.connect()
        while (!this.#over) {
          await this.#transact(client, random)
          await sleep(random.below(pause))
        }
      } catch {
        // Its last transaction stays unknown until the end.
        await sleep(random.below(300))
      } finally {
        await Promise.race([client.end().catch(() => {}), sleep(1000)])
      }
    }
  }

  async #transact(client: pg.Client, random: Random): Promise<void> {
    const asynchronous = random.chance(0.2)
    const transaction = this.#begin(asynchronous ? 'SQL, synchronous_commit off' : 'SQL')
    const publish = async (more: { row?: string; version?: number; undone?: boolean } = {}) => {
      const id = `${transaction.id}.${transaction.messages.length}`
      const channel = random.one(random.chance(0.75) ? DURABLE : EPHEMERAL)
      transaction.messages.push({ id, channel, ...more })
      // Some are too large for a notification.
      const text = random.chance(0.05) ? `${id} ${'x'.repeat(9000)}` : id
      if (!more.undone) transaction.published = this.#history.now()
      await client.query('select pgws.publish_text($1, $2)', [channel, text])
    }
    await client.query('begin')
    if (asynchronous) await client.query('set local synchronous_commit = off')
    await client.query('insert into committed values ($1)', [transaction.id])
    if (random.chance(0.3)) {
      // It overlaps with those whose commits it sees below.
      await publish()
      await sleep(random.below(20))
    }
    if (random.chance(0.7)) {
      const row = random.one(ROWS)
      const { rows } = await client.query('update counters set n = n + 1 where name = $1 returning n', [row])
      await publish({ row, version: Number(rows[0].n) })
    }
    if (random.chance(0.15)) {
      await client.query('savepoint s')
      await publish({ undone: true })
      await client.query('rollback to s')
    }
    if (random.chance(0.25)) {
      const name = random.one(WATCHED)
      const id = `${transaction.id}.${transaction.messages.length}`
      const sent = { id, channel: `table:${name}`, row: `watched ${name}`, version: 0 }
      transaction.messages.push(sent)
      // The version is known when the row is locked, before its message is published.
      const { rows } = await client.query('select n from watched where name = $1 for update', [name])
      sent.version = Number(rows[0].n) + 1
      transaction.published = this.#history.now()
      await client.query('update watched set n = n + 1, message = $2 where name = $1', [name, id])
    }
    // More than one round announces, so that later commits are left to the next rounds. Nobody reads it.
    if (random.chance(0.003)) {
      await client.query(
        `select pgws.publish_text('unread', repeat('x', 524288)) from generate_series(1, 40)`
      )
    }
    const most = random.chance(0.05) ? 40 : 2
    for (let left = random.below(most); left > 0 || transaction.messages.length === 0; left--) await publish()
    if (random.chance(0.05)) await sleep(random.below(1000))
    if (random.chance(0.1)) {
      await client.query('rollback')
      transaction.outcome = 'rolled back'
    } else if (random.chance(0.02)) {
      // It leaves before the answer.
      client.query('commit').catch(() => {})
      throw new Error('gone')
    } else {
      await client.query('commit')
      transaction.acknowledged = this.#history.now()
      transaction.outcome = 'committed'
    }
  }

  async #post(random: Random, pause: number): Promise<void> {
    const headers = {
      authorization: `Bearer ${token({ mode: 'w', sub: 'writer' })}`,
      'content-type': 'application/json'
    }
    while (!this.#over) {
      const durable = random.chance(0.75)
      const channel = random.one(durable ? DURABLE : EPHEMERAL)
      const transaction = this.#begin(durable ? 'HTTP, with a key' : 'HTTP')
      const id = `${transaction.id}.0`
      transaction.messages.push({ id, channel })
      const body = JSON.stringify({ channel, payload: id })
      // With a key, it is sent again to any node until its outcome is known. Without one, it is sent once.
      do {
        const { http } = this.#target.node(random)
        const status = await fetch(`${http}/publish`, {
          method: 'POST',
          headers: { ...headers, ...(durable && { 'idempotency-key': id }) },
          body,
          signal: AbortSignal.timeout(ATTEMPT)
        }).then(
          (response) => response.arrayBuffer().then(() => response.status),
          () => undefined
        )
        if (status === 202) {
          transaction.acknowledged = this.#history.now()
          transaction.outcome = 'committed'
        } else if (status !== undefined && status < 500) {
          throw new Error(`POST /publish was answered with ${status}`)
        } else await sleep(random.below(200))
      } while (durable && transaction.outcome === 'unknown')
      await sleep(random.below(pause))
    }
  }

  /** Sends over websockets, which get no answer. Messages of one connection arrive in order, or not at all. */
  async #send(sender: number, random: Random, pause: number): Promise<void> {
    for (let connection = 0; !this.#over; connection++) {
      const channel = random.one(random.chance(0.75) ? DURABLE : EPHEMERAL)
      const { ws } = this.#target.node(random)
      const socket = new WebSocket(`${ws}/${channel}/${token({ mode: 'w', sub: 'writer' })}`, {
        handshakeTimeout: 5000
      })
      socket.on('error', () => {})
      const opened = await new Promise<boolean>((resolve) => {
        socket.on('open', () => resolve(true))
        socket.on('close', () => resolve(false))
      })
      const row = `socket ${sender}.${connection}`
      const most = random.below(200)
      for (let version = 0; opened && version < most && !this.#over; version++) {
        if (socket.readyState !== socket.OPEN) break
        const transaction = this.#begin('websocket')
        const id = `${transaction.id}.0`
        transaction.messages.push({ id, channel, row, version })
        socket.send(id)
        await sleep(random.below(pause))
      }
      socket.terminate()
      if (!opened) await sleep(random.below(300))
    }
  }

  /** Publishes with the SDK, which may get an answer. */
  async #publish(owner: Owner, random: Random, pause: number): Promise<void> {
    const transport = 'websocket' as const
    const endpoint = () => `${this.#target.node(random).ws}/connection/websocket`
    const options = { token: token({ mode: 'w', sub: 'writer' }), timeout: ATTEMPT }
    const client = sdk(owner, '', options, undefined, [{ transport, endpoint }])
    client.connect()
    while (!this.#over) {
      await client.ready(ATTEMPT).catch(() => {})
      const channel = random.one(random.chance(0.75) ? DURABLE : EPHEMERAL)
      const transaction = this.#begin('SDK')
      const id = `${transaction.id}.0`
      transaction.messages.push({ id, channel })
      await client.publish(channel, id).then(
        () => {
          transaction.acknowledged = this.#history.now()
          transaction.outcome = 'committed'
        },
        () => {}
      )
      if (random.chance(0.02)) raw(client)?.terminate()
      await sleep(random.below(pause))
    }
    client.disconnect()
  }
}
