import { EventEmitter, once } from 'node:events'
import t from 'tap'
import { Expiry } from '../../../lib/clients/connections/expiry.js'

const real = Date.now
let offset = 0
Date.now = () => real() + offset
t.teardown(() => {
  Date.now = real
})

const HOUR = 3_600_000

// The timer of Expiry does not keep the process alive.
const alive = setInterval(() => {}, 1000)
t.teardown(() => clearInterval(alive))

t.test('a clock that jumps forward and back delays no expiry', async (t) => {
  const ended = new EventEmitter()
  const expiry = new Expiry<string>((member) => ended.emit(member))
  t.teardown(() => {
    offset = 0
    expiry.stop()
  })
  offset = HOUR
  expiry.add('early', Date.now() - 1000)
  // It reads the clock while that is ahead.
  await once(ended, 'early')
  offset = 0
  const time = Date.now() + 60_000
  expiry.add('in a minute', time)
  expiry.add('taken out', time)
  expiry.delete('taken out', time)
  ended.on('taken out', () => t.fail('was taken out'))
  offset = 61_000
  await once(ended, 'in a minute', { signal: AbortSignal.timeout(20_000) })
})

t.test('members that expired without a check are reported in the order of their times', async (t) => {
  const members: number[] = []
  const done = new EventEmitter()
  const expiry = new Expiry<number>((member) => {
    if (members.push(member) === 4) done.emit('all')
  })
  t.teardown(() => {
    offset = 0
    expiry.stop()
  })
  const now = Date.now()
  for (const member of [3, 1, 2]) expiry.add(member, now + member * HOUR)
  expiry.add(9, now + 9 * HOUR)
  expiry.add(0, now - HOUR)
  const all = once(done, 'all', { signal: AbortSignal.timeout(20_000) })
  offset = 5 * HOUR
  await all
  t.same(members, [0, 1, 2, 3])
})
