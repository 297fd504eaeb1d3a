import { setTimeout as sleep } from 'node:timers/promises'
import type { History, Reader } from './history.js'
import type { Random } from './random.js'
import { Readers, readHistory } from './readers.js'
import type { Owner, Target } from './target.js'
import { Writers } from './writers.js'

/** How long to wait at the end for messages that arrive twice, in milliseconds. */
const AFTERMATH = 1000

export interface RecordOptions {
  /** The longest pause between two transactions of a writer, in milliseconds. */
  pause?: number
  /** How long readers may take to receive what is missing after all faults are repaired, in milliseconds. */
  patience?: number
}

/**
 * Records in a history what is published and delivered.
 * @param meanwhile resolves when the writers should end. After that, everything must work
 */
export async function record(
  owner: Owner,
  target: Target,
  random: Random,
  history: History,
  meanwhile: (readers: Readers) => Promise<void>,
  { pause, patience = 60_000 }: RecordOptions = {}
): Promise<void> {
  const readers = new Readers(target, history, random.fork())
  await readers.start(owner)
  const writers = new Writers(target, history)
  writers.start(owner, random.fork(), pause === undefined ? {} : { pause })
  await meanwhile(readers)
  await writers.stop()
  history.incident('the writers have ended')
  const deadline = performance.now() + patience
  while (performance.now() < deadline && !history.readers.every((reader) => hasAll(history, reader))) {
    await sleep(100)
  }
  await sleep(AFTERMATH)
  readers.stop()
  await readHistory(history, target)
}

/** Whether it is worth waiting. The checker finds out what is missing. */
function hasAll({ transactions, readers }: History, { complete, channels, deliveries }: Reader): boolean {
  if (!complete) return true
  // What one of them received was committed, even if its sender got no answer.
  const anywhere = new Set(readers.flatMap((reader) => reader.deliveries.map(({ message }) => message)))
  const got = new Set(deliveries.map(({ message }) => message))
  return transactions.every(({ outcome, messages }) =>
    messages.every(
      ({ id, channel, undone }) =>
        undone || !channels.includes(channel) || got.has(id) || (outcome !== 'committed' && !anywhere.has(id))
    )
  )
}
