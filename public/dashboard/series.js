// From the figures of nodes, which come at their own times, to series with common times. Counters are totals since the
// start of a node, so a rate is their difference, divided by the time between.

/** How far back plots go, and the distance of their points, in seconds. */
export const WINDOW = 600
const STEP = 2
/** Over what closes and refusals are counted, in seconds. */
export const BUCKET = 10
/** Figures that are further apart say nothing about the time between, in seconds. */
const MAX_GAP = 30

/** Reads a rate of a counter from two figures. */
export const rateOf = (read) => (current, previous) => {
  const difference = read(current.stats) - read(previous.stats)
  return difference < 0 || Number.isNaN(difference) ? null : difference / (current.at - previous.at)
}

/** Reads a figure as it is. */
export const figureOf = (read) => ({ stats }) => read(stats) ?? null

/** The rate of a counter over the last seconds of a node, or null. */
export function latestRate(samples, read, seconds = 5) {
  const current = samples.at(-1)
  const previous = samples.findLast(({ at }) => at <= current.at - seconds) ?? samples[0]
  if (previous === current || current.at - previous.at > MAX_GAP) return null
  return rateOf(read)(current, previous)
}

/** The times of a plot, in seconds, up to the last moment of which all nodes have told. */
export function timesOf(nodes, step = STEP) {
  const ends = nodes.filter(({ reporting }) => reporting).map(({ samples }) => samples.at(-1).at)
  if (ends.length === 0) return []
  const end = Math.floor(Math.min(...ends) / step) * step
  return Array.from({ length: WINDOW / step + 1 }, (_, index) => end - WINDOW + index * step)
}

/** What a node has for each of some times: null where it has not told. */
export function sampled(samples, times, value) {
  const values = new Array(times.length).fill(null)
  let next = 1
  for (const [index, time] of times.entries()) {
    while (next < samples.length && samples[next].at < time) next++
    if (next >= samples.length) break
    const [previous, current] = [samples[next - 1], samples[next]]
    if (previous.at <= time && current.at - previous.at <= MAX_GAP) values[index] = value(current, previous)
  }
  return values
}

/** How much a counter grew until each of some times, since the one before. */
export function growth(samples, times, read) {
  const totals = sampled(samples, times, (current, previous) => {
    // A reason that appears for the first time was zero before.
    return { before: read(previous.stats) ?? 0, after: read(current.stats) ?? 0, previous, current }
  }).map((found, index) => {
    if (found === null) return null
    const { before, after, previous, current } = found
    return before + ((after - before) * (times[index] - previous.at)) / (current.at - previous.at)
  })
  return totals.map((total, index) => (index === 0 || total === null || totals[index - 1] === null ? null : Math.max(0, total - totals[index - 1])))
}

/** Several nodes' values as one. @param combine sums or maxima; a node without a value does not count */
export function combined(lists, combine) {
  if (lists.length === 0) return []
  return lists[0].map((_, index) => {
    const values = lists.map((list) => list[index]).filter((value) => value !== null)
    return values.length === 0 ? null : combine(values)
  })
}

export const sum = (values) => values.reduce((total, value) => total + value, 0)
export const max = (values) => Math.max(...values)

/** The last value, the highest and the mean of a series. */
export function summaryOf(values) {
  const known = values.filter((value) => value !== null && value !== undefined)
  if (known.length === 0) return { last: undefined, highest: undefined, mean: undefined }
  return { last: values.findLast((value) => value !== null), highest: max(known), mean: sum(known) / known.length }
}
