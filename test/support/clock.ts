import { syncBuiltinESMExports } from 'node:module'
import { mock } from 'node:test'
import type { Test } from 'tap'

/**
 * Stops the clock of this process for a test. The date, `performance.now` and all timers advance only by `forward`. It is for
 * code without network and database, because these would wait forever.
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
    /** Advances by one millisecond at a time, so that code which a timer wakes sets its next timer at the right time. */
    async forward(milliseconds) {
      for (let step = 0; step < milliseconds; step++) {
        mock.timers.tick(1)
        await new Promise((resolve) => setImmediate(resolve))
      }
    }
  }
}

/**
 * Holds the date and `performance.now` of this process for a test. They advance only by `forward`, even on a busy machine.
 * Timers run as usual.
 */
export function heldClock(t: Test): { forward(milliseconds: number): void } {
  let ahead = 0
  for (const clock of [Date, performance] as const) {
    const { now } = clock
    // It is an integer, because adding and subtracting fractions would not be exact.
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
