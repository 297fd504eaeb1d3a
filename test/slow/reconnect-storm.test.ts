import t from 'tap'
import { reconnectStorm } from '../support/reconnect-storm.js'

t.test('10,000 clients of different channels come back at once with at most 50 transactions', async (t) => {
  const transactions = await reconnectStorm(t, 10_000)
  t.comment(`${transactions} transactions`)
  t.ok(transactions <= 50, `${transactions} transactions`)
})
