import t from 'tap'
import { survivesRestart } from '../support/restart.js'

// test/lib/listener/faults.test.ts tests SIGQUIT.
for (const signal of ['SIGINT', 'SIGKILL'] as const) {
  t.test(`survives a PostgreSQL that is stopped with ${signal} and started again`, (t) =>
    survivesRestart(t, signal)
  )
}
