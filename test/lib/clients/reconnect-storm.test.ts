import t from 'tap'
import { reconnectStorm } from '../../support/reconnect-storm.js'

t.test('2,000 clients of different channels that reconnect at once cause at most 50 transactions', (t) =>
  reconnectStorm(t, 2000)
)
