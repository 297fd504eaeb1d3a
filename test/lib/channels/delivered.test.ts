import t from 'tap'
import { Delivered } from '../../../lib/channels/incoming/delivered.js'

t.test('the floor is what the database reports, and deliveries do not raise it', async (t) => {
  const delivered = new Delivered()
  delivered.raise(10)
  delivered.add(11, 'a')
  delivered.add(12, 'b')
  delivered.add(1_000_000, 'forged')
  t.equal(delivered.floor, 10)
  t.ok(delivered.has(11, 'a'))
  t.notOk(delivered.has(11, 'b'))
  t.notOk(delivered.has(13, 'a'))
  // Half a million positions further on.
  t.notOk(delivered.has(11 + 2 ** 19, 'a'))
  t.same([...delivered.positions()], [11, 12, 1_000_000])
})

t.test('drops what was delivered before a mark once the mark is confirmed', async (t) => {
  const delivered = new Delivered()
  delivered.raise(10)
  delivered.add(11, 'a')
  delivered.add(1_000_000, 'forged')
  delivered.mark()
  delivered.add(12, 'b')
  delivered.add(13, 'c')
  delivered.prove(12)
  // Deliveries after the mark are left for the next mark.
  t.equal(delivered.floor, 11)
  t.same([...delivered.positions()], [12, 13])
  delivered.prove(13)
  t.equal(delivered.floor, 11)
  delivered.mark()
  delivered.unmark()
  delivered.prove(13)
  t.equal(delivered.floor, 11)
  t.ok(delivered.has(12, 'b'))
  delivered.add(14, 'd')
  for (const floor of [13, 14]) {
    delivered.mark()
    delivered.prove(14)
    t.equal(delivered.floor, floor)
  }
  t.equal(delivered.positions().size, 0)
})

t.test('a mark that is never confirmed keeps nothing else; the next one covers it', async (t) => {
  const delivered = new Delivered()
  delivered.raise(0)
  for (let position = 1; position <= 400_000; position++) {
    if (position % 10 === 0) delivered.mark()
    delivered.add(position, 'text')
  }
  t.ok(delivered.positions().size <= 250_000)
  for (let n = 0; n < 2; n++) {
    delivered.mark()
    delivered.prove(400_000)
  }
  t.equal(delivered.floor, 400_000)
  t.equal(delivered.positions().size, 0)
})

t.test('keeps a limited number of positions; beyond it the floor follows', async (t) => {
  const delivered = new Delivered()
  delivered.raise(0)
  delivered.add(2 ** 40, 'forged')
  for (let position = 1; position <= 1_000_000; position++) {
    delivered.add(position, 'text')
    if (position % 100_000 === 0 && delivered.positions().size > 250_000) t.fail('too many are kept')
  }
  const { floor } = delivered
  t.ok(floor! > 700_000 && floor! < 1_000_000, `${floor}`)
  const missing = []
  for (let position = floor! + 1; position <= 1_000_000; position++) {
    if (!delivered.has(position, 'text')) missing.push(position)
  }
  t.same(missing, [])
})

t.test('a message without readers counts as delivered, whatever its text, and is no sample', async (t) => {
  const delivered = new Delivered()
  delivered.raise(10)
  delivered.pass(11)
  delivered.add(12, 'b')
  t.ok(delivered.has(11, 'any'))
  t.notOk(delivered.has(12, 'any'))
  t.notOk(delivered.has(13, 'any'))
  t.same([...delivered.positions()], [11, 12])
  delivered.mark()
  delivered.prove(12)
  t.equal(delivered.floor, 12)
  t.same(delivered.sample, [12])
})
