import { syncBuiltinESMExports } from 'node:module'
import { mock } from 'node:test'
import type { Test } from 'tap'

/**
 * Stops the clock of this process for a test: the date, `performance.now` and all timers go on only when they are told to. For what
 * needs no network and no database, which would wait for ever.
 */
export function stoppedClock(t: Test): { forward(milliseconds: number): Promise<void> } {
  const { setImmediate } = globalThis
  const now = 1_800_000_000_000
  mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'], now })
  const monotonic = mock.method(performance, 'now', () => Date.now() - now)
  // For `import { setTimeout } from 'node:timers/promises'`.
  syncBuiltinESMExports()
  t.teardown(() => {
    monotonic.mock.restore()
    mock.timers.reset()
    syncBuiltinESMExports()
  })
  return {
    /** In steps of a millisecond, so that what a timer has woken sets its next one at the right time. */
    async forward(milliseconds) {
      for (let step = 0; step < milliseconds; step++) {
        mock.timers.tick(1)
        await new Promise((resolve) => setImmediate(resolve))
      }
    }
  }
}

/**
 * Holds the date and `performance.now` of this process for a test: they go forward only when they are told to, however
 * busy the machine is. Timers take the time that they take.
 */
export function heldClock(t: Test): { forward(milliseconds: number): void } {
  let ahead = 0
  for (const clock of [Date, performance] as const) {
    const { now } = clock
    // Whole, or what is added and then subtracted would at times be a little less than what it was.
    const held = Math.floor(now.call(clock))
    clock.now = () => held + ahead
    t.teardown(() => {
      clock.now = now
    })
  }
  return {
    forward(milliseconds) {
      ahead += milliseconds
    }
  }
}
