import t from 'tap'
import { TextParts } from '../../../lib/messages/index.js'

t.test('parts arrive in order, or are dropped', async (t) => {
  const parts = new TextParts()
  t.ok(parts.add(0, 'a'))
  t.notOk(parts.add(0, 'x'))
  t.notOk(parts.add(2, 'x'))
  t.ok(parts.add(1, 'b'))
  t.equal(parts.whole(), 'ab')
  t.equal(parts.length, TextParts.lengthOf('a') + TextParts.lengthOf('b'))
  parts.clear()
  t.equal(parts.length, 0)
  t.ok(parts.add(0, 'c'))
  t.equal(parts.whole(), 'c')
})
