/** A reader received one message directly before another one. */
export interface Step {
  from: string
  to: string
  who: string
}

/**
 * Searches one order that is consistent with all steps.
 * @returns steps that form a cycle; empty if there is an order
 */
export function findCycle(steps: Step[]): Step[] {
  const next = new Map<string, Step[]>()
  /** For each message, the number of messages before it that have no place in the order yet. */
  const waiting = new Map<string, number>()
  for (const step of steps) {
    const list = next.get(step.from)
    if (list === undefined) next.set(step.from, [step])
    else list.push(step)
    waiting.set(step.to, (waiting.get(step.to) ?? 0) + 1)
    if (!waiting.has(step.from)) waiting.set(step.from, 0)
  }
  // Kahn's algorithm: a message that waits for no other is next.
  const placed = [...waiting].filter(([, count]) => count === 0).map(([message]) => message)
  for (const message of placed) {
    for (const { to } of next.get(message) ?? []) {
      const left = waiting.get(to)! - 1
      waiting.set(to, left)
      if (left === 0) placed.push(to)
    }
  }
  if (placed.length === waiting.size) return []
  // Each remaining message has a step from another remaining one, so the way back ends in a cycle.
  const unplaced = (message: string) => waiting.get(message)! > 0
  const back = new Map<string, Step>()
  for (const step of steps) if (unplaced(step.from) && unplaced(step.to)) back.set(step.to, step)
  const way: Step[] = []
  const visited = new Map<string, number>()
  let message = back.keys().next().value!
  while (!visited.has(message)) {
    visited.set(message, way.length)
    const step = back.get(message)!
    way.push(step)
    message = step.from
  }
  return way.slice(visited.get(message)).reverse()
}
