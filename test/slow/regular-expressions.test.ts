import t from 'tap'
import { measuring, regularExpressions } from '../support/growth.js'

const { literals, computed } = regularExpressions()

t.test('the measurement finds expressions that are not linear', async (t) => {
  const growthOf = measuring(t)
  for (const { source, flags } of [
    /eyJ[\w-]*\.[\w%-]*(?:\.[\w%-]*)*/g,
    /(?:[^:\\]|\\.)*(?::|$)/g,
    /\ufffd+$/
  ]) {
    const { growth } = await growthOf({ source, flags })
    t.ok(growth > 3, `/${source}/ grows by ${growth}`)
  }
})

t.test('the time of each regular expression grows at most linearly with its input', async (t) => {
  t.ok(literals.length > 30)
  t.same(computed, [], 'no expression is built from strings, which this test cannot see')
  const growthOf = measuring(t)
  for (const literal of literals) {
    const { growth, prefix, pump, suffix } = await growthOf(literal)
    const input = `${JSON.stringify(prefix)}, ${JSON.stringify(pump)} again and again, ${JSON.stringify(suffix)}`
    t.ok(growth <= 3, `${literal.place}: /${literal.source}/ grows by ${growth} with ${input}`)
  }
})
