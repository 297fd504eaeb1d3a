import t from 'tap'
import { reconnectStorm } from '../support/reconnect-storm.js'

t.test('10,000 clients of different channels reconnect at once with at most 50 transactions', (t) =>
  reconnectStorm(t, 10_000)
)
