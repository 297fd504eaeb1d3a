import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** What became of a transaction; the sender of an `unknown` one got no answer. */
export type Outcome = 'committed' | 'rolled back' | 'unknown'

export interface Sent {
  id: string
  channel: string
  /** The row that the transaction has updated, and the version that it has made. */
  row?: string
  version?: number
  /** Published behind a savepoint that was rolled back. */
  undone?: boolean
}

/** Messages that are published together. */
export interface Transaction {
  id: string
  /** How: in SQL, by a watched table, over HTTP. */
  way: string
  messages: Sent[]
  /** When its last message was sent for the first time, in milliseconds of the one clock of the history. */
  published: number
  /** When its sender knew that it was committed. */
  acknowledged?: number
  outcome: Outcome
}

export interface Delivery {
  message: string
  channel: string
  at: number
  /** The message's id, or offset, where it has one. */
  position?: string
}

/**
 * One that reads channels: through all connections that it has had, where each continues the last one, or else through
 * one.
 */
export interface Reader {
  name: string
  channels: string[]
  /**
   * Whether the channels are durable, and it has read them from their beginning to the end of the history: it must have
   * everything.
   */
  complete: boolean
  /** Positions of readers of the same kind can be compared. */
  kind: string
  deliveries: Delivery[]
  /** When it was informed that messages are missing. */
  gaps: number[]
  connections: number
}

/** Something that happened besides: a fault that was injected. */
export interface Incident {
  at: number
  what: string
}

/** All that was published and delivered in a run. */
export class History {
  readonly transactions: Transaction[] = []
  readonly readers: Reader[] = []
  readonly incidents: Incident[] = []

  /** The time, in milliseconds since the start. */
  now(): number {
    return performance.now()
  }

  incident(what: string): void {
    this.incidents.push({ at: this.now(), what })
  }

  /** A copy, to change it. */
  copy(): History {
    return Object.assign(new History(), structuredClone({ ...this }))
  }

  /** Writes it into a folder: a file for the transactions, one for the incidents, and one for each reader. */
  save(folder: string): void {
    mkdirSync(folder, { recursive: true })
    const write = (name: string, lines: unknown[]) =>
      writeFileSync(join(folder, name), lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
    write('transactions.jsonl', this.transactions)
    write('incidents.jsonl', this.incidents)
    write(
      'readers.jsonl',
      this.readers.map(({ deliveries, ...reader }) => reader)
    )
    for (const { name, deliveries } of this.readers) write(`deliveries-${name}.jsonl`, deliveries)
  }

  /** Reads what `save` has written. */
  static load(folder: string): History {
    const read = (name: string) =>
      readFileSync(join(folder, name), 'utf8')
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line))
    const history = new History()
    history.transactions.push(...read('transactions.jsonl'))
    history.incidents.push(...read('incidents.jsonl'))
    for (const reader of read('readers.jsonl')) {
      history.readers.push({ ...reader, deliveries: read(`deliveries-${reader.name}.jsonl`) })
    }
    return history
  }
}
