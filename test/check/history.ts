import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** The outcome of a transaction. The sender of an `unknown` one got no answer. */
export type Outcome = 'committed' | 'rolled back' | 'unknown'

export interface Sent {
  id: string
  channel: string
  /** The row that the transaction updated, and its new version. */
  row?: string
  version?: number
  /** Published after a savepoint that was rolled back. */
  undone?: boolean
}

/** Messages that are published together. */
export interface Transaction {
  id: string
  /** How it was published: in SQL, by a watched table, over HTTP. */
  way: string
  messages: Sent[]
  /** When its last message was sent for the first time, in milliseconds of the history's clock. */
  published: number
  /** When its sender knew that it was committed. */
  acknowledged?: number
  outcome: Outcome
}

export interface Delivery {
  message: string
  channel: string
  at: number
  /** The message's id or offset, if it has one. */
  position?: string
}

/**
 * A reader of channels. It covers several connections if each continues the one before, and otherwise one connection.
 */
export interface Reader {
  name: string
  channels: string[]
  /**
   * Whether the channels are durable, and it read them from their beginning to the end of the history, so that it must have
   * everything.
   */
  complete: boolean
  /** Positions of readers of the same kind can be compared. */
  kind: string
  deliveries: Delivery[]
  /** When it received a gap. */
  gaps: number[]
  connections: number
}

/** A fault that was injected. */
export interface Incident {
  at: number
  what: string
}

/** An interval of time, in milliseconds of the history's clock. */
export interface Interval {
  from: number
  to: number
}

/** All that was published and delivered in a run. */
export class History {
  readonly transactions: Transaction[] = []
  readonly readers: Reader[] = []
  readonly incidents: Incident[] = []
  /** When some servers had no bus. What nobody retains may come late then, and behind what is newer. */
  readonly mixed: Interval[] = []

  /** The time, in milliseconds since the start. */
  now(): number {
    return performance.now()
  }

  incident(what: string): void {
    this.incidents.push({ at: this.now(), what })
  }

  /** A copy that can be changed. */
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
    write('mixed.jsonl', this.mixed)
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
    history.mixed.push(...read('mixed.jsonl'))
    for (const reader of read('readers.jsonl')) {
      history.readers.push({ ...reader, deliveries: read(`deliveries-${reader.name}.jsonl`) })
    }
    return history
  }
}
