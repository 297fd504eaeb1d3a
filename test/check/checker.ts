import type { Delivery, History, Reader, Sent, Transaction } from './history.js'
import { findCycle, type Step } from './one-order.js'

/** The promises, each with the word under which a violation is reported. */
export type Rule =
  /** Every committed message reaches every reader of a durable channel. */
  | 'lost'
  /** No message arrives twice. */
  | 'duplicate'
  /** Only messages arrive that were published and committed. */
  | 'phantom'
  /** A message is unchanged, and arrives on its own channel. */
  | 'misdirected'
  /** A reader of a durable channel never gets a gap within the retention. */
  | 'gap'
  /** One order is consistent with what all readers received. */
  | 'one order'
  /** The messages of a transaction arrive together, in the order in which they were published. */
  | 'transaction'
  /** A message that was published after a commit was seen arrives after the messages of that commit. */
  | 'commit order'
  /** The changes of a row arrive in the order of its versions. */
  | 'row order'
  /** Positions increase, and each message has one. */
  | 'position'

export interface Violation {
  rule: Rule
  /** A sentence that says what is wrong with which messages. */
  text: string
}

interface Known {
  transaction: Transaction
  sent: Sent
  /** Its place among the transaction's messages. */
  index: number
}

/**
 * Checks that a history keeps all promises. Readers of channels that are not durable may miss messages, and receive them in
 * any order while some servers have no bus. The other promises apply to them, too.
 */
export function check(history: History): Violation[] {
  const violations: Violation[] = []
  const report = (rule: Rule, text: string) => violations.push({ rule, text })
  const known = new Map<string, Known>()
  for (const transaction of history.transactions) {
    for (const [index, sent] of transaction.messages.entries()) {
      known.set(sent.id, { transaction, sent, index })
    }
  }
  /** What one reader received was committed for all. */
  const committed = new Set(
    history.transactions.filter(({ outcome }) => outcome === 'committed').map(({ id }) => id)
  )
  const steps: Step[] = []
  const positions = new Map<string, string>()
  for (const reader of history.readers) {
    const { name } = reader
    for (const at of reader.gaps) report('gap', `${name} got a gap at ${Math.round(at)} ms`)
    const real: { delivery: Delivery; known: Known }[] = []
    const seen = new Set<string>()
    for (const delivery of reader.deliveries) {
      const { message } = delivery
      const publication = known.get(message)
      if (publication === undefined) report('phantom', `${name} got ${message}, which nobody has published`)
      else if (publication.sent.undone || publication.transaction.outcome === 'rolled back') {
        report('phantom', `${name} got ${message}, which was rolled back`)
      } else if (publication.sent.channel !== delivery.channel) {
        report(
          'misdirected',
          `${name} got ${message} on ${delivery.channel}; it was for ${publication.sent.channel}`
        )
      } else if (seen.has(message)) report('duplicate', `${name} got ${message} again`)
      else {
        seen.add(message)
        real.push({ delivery, known: publication })
        committed.add(publication.transaction.id)
      }
    }
    const ordered = reader.complete ? real : real.filter(({ delivery }) => !isMixed(history, delivery))
    for (const [index, { delivery }] of ordered.entries()) {
      const before = ordered[index - 1]
      if (before !== undefined) steps.push({ from: before.delivery.message, to: delivery.message, who: name })
      checkPosition(reader, before?.delivery, delivery, positions, report)
    }
    const publications = ordered.map((one) => one.known)
    checkTogether(name, publications, report)
    checkCommitOrder(name, publications, report)
    checkRows(name, publications, report)
  }
  for (const reader of history.readers) {
    if (reader.complete) checkComplete(reader, history.transactions, committed, report)
  }
  const cycle = findCycle(steps)
  if (cycle.length > 0) {
    report('one order', cycle.map(({ who, from, to }) => `${who} got ${from} before ${to}`).join(', but '))
  }
  return violations
}

/** For how long what nobody retains may come late after all servers have the bus again, in milliseconds. */
const LATE = 5000

/** Whether a message came while its order was not promised, if nobody retains it. */
function isMixed({ mixed }: History, { at }: Delivery): boolean {
  return mixed.some(({ from, to }) => from <= at && at <= to + LATE)
}

type Report = (rule: Rule, text: string) => void

function checkComplete(
  { name, channels, deliveries }: Reader,
  transactions: Transaction[],
  committed: Set<string>,
  report: Report
): void {
  const got = new Set(deliveries.map(({ message }) => message))
  for (const { id, way, messages, published } of transactions) {
    if (!committed.has(id)) continue
    for (const sent of messages) {
      if (sent.undone || got.has(sent.id) || !channels.includes(sent.channel)) continue
      report(
        'lost',
        `${name} has not got ${sent.id} (${way}, ${sent.channel}), published at ${Math.round(published)} ms`
      )
    }
  }
}

function checkPosition(
  { name, kind }: Reader,
  before: Delivery | undefined,
  { message, position }: Delivery,
  positions: Map<string, string>,
  report: Report
): void {
  if (position === undefined) return
  if (before?.position !== undefined && before.position >= position) {
    report(
      'position',
      `${name} got ${message} with ${position} behind ${before.message} with ${before.position}`
    )
  }
  const key = `${kind} ${message}`
  const other = positions.get(key)
  if (other === undefined) positions.set(key, position)
  else if (other !== position)
    report('position', `${name} got ${message} with ${position}, others with ${other}`)
}

function checkTogether(name: string, publications: Known[], report: Report): void {
  const ended = new Set<string>()
  let last: Known | undefined
  for (const publication of publications) {
    const { transaction, sent, index } = publication
    if (last?.transaction === transaction) {
      if (index < last.index) report('transaction', `${name} got ${sent.id} behind ${last.sent.id}`)
    } else {
      if (last !== undefined) ended.add(last.transaction.id)
      if (ended.has(transaction.id)) {
        report('transaction', `${name} got ${sent.id} apart, behind ${last?.sent.id}`)
      }
    }
    last = publication
  }
}

function checkCommitOrder(name: string, publications: Known[], report: Report): void {
  let latest: Known | undefined
  for (const publication of publications) {
    const { transaction, sent } = publication
    if (latest !== undefined && transaction.acknowledged !== undefined) {
      const { published } = latest.transaction
      if (transaction.acknowledged < published) {
        report(
          'commit order',
          `${name} got ${latest.sent.id}, published at ${Math.round(published)} ms, before ${sent.id}, ` +
            `which was committed by ${Math.round(transaction.acknowledged)} ms`
        )
      }
    }
    if (latest === undefined || transaction.published > latest.transaction.published) latest = publication
  }
}

function checkRows(name: string, publications: Known[], report: Report): void {
  const versions = new Map<string, Sent>()
  for (const { sent } of publications) {
    const { row, version } = sent
    if (row === undefined) continue
    const before = versions.get(row)
    if (before !== undefined && before.version! > version!) {
      report(
        'row order',
        `${name} got ${sent.id} with version ${version} of ${row} behind ${before.id} with ${before.version}`
      )
    }
    versions.set(row, sent)
  }
}
