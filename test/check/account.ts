import type { History } from './history.js'

/** Counts how often each value occurs, the most frequent first. */
function counts(words: string[]): string {
  const all = new Map<string, number>()
  for (const word of words) all.set(word, (all.get(word) ?? 0) + 1)
  return [...all]
    .sort((a, b) => b[1] - a[1])
    .map(([word, count]) => `${word} ${count}`)
    .join(', ')
}

/** Summarizes a history in a few lines. */
export function account({ transactions, readers, incidents }: History): string {
  const lines: string[] = []
  for (const way of new Set(transactions.map((one) => one.way))) {
    const all = transactions.filter((one) => one.way === way)
    const messages = all.reduce((sum, one) => sum + one.messages.length, 0)
    lines.push(
      `${way}: ${all.length} transactions, ${messages} messages; ${counts(all.map((one) => one.outcome))}`
    )
  }
  const delivered = new Set(readers.flatMap(({ deliveries }) => deliveries.map(({ message }) => message)))
  /** The number of messages that each channel should have delivered. */
  const published = new Map<string, number>()
  for (const { outcome, messages } of transactions) {
    for (const { id, channel, undone } of messages) {
      if (!undone && (outcome === 'committed' || delivered.has(id)))
        published.set(channel, (published.get(channel) ?? 0) + 1)
    }
  }
  for (const { name, channels, complete, deliveries, connections } of readers) {
    if (!complete) continue
    const all = channels.reduce((sum, channel) => sum + (published.get(channel) ?? 0), 0)
    lines.push(`${name}: ${deliveries.length} of ${all} messages, ${connections} connections`)
  }
  const others = readers.filter(({ complete }) => !complete)
  const received = others.reduce((sum, { deliveries }) => sum + deliveries.length, 0)
  lines.push(`readers of channels that nobody keeps: ${received} messages, ${others.length} connections`)
  const kinds = incidents
    .filter(({ what }) => !what.startsWith('over: '))
    .map(({ what }) => what.replace(/node-\d+/, 'a node'))
  lines.push(`faults: ${counts(kinds)}`)
  return lines.join('\n')
}
