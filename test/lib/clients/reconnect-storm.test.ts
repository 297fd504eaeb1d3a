import t from 'tap'
import { reconnectStorm } from '../../support/reconnect-storm.js'

t.test(
  '2,000 clients of different channels that come back at once take at most 50 transactions',
  async (t) => {
    const transactions = await reconnectStorm(t, 2000)
    t.comment(`${transactions} transactions`)
    t.ok(transactions <= 50, `${transactions} transactions`)
  }
)
