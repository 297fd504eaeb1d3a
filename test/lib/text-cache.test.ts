import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { Multipart } from '../../lib/cluster/messages/multipart.js'
import { Answers } from '../../lib/cluster/questions/answers.js'
import { RetentionRules } from '../../lib/durable/retention-rules.js'
import { textCache } from '../../lib/text-cache.js'
import { build, query, withPostgres } from '../support/helper.js'

const MIB = 1024 * 1024

t.test('limits the cache by bytes and by the number of entries', async (t) => {
  const cache = textCache<true>()
  for (let i = 0; i < 300; i++) cache.set(`${i}${'x'.repeat(900_000)}`, true)
  t.ok(cache.calculatedSize <= 4 * MIB)
  for (let i = 0; i < 20_000; i++) cache.set(`${i}`, true)
  t.ok(cache.size <= 10_000 && cache.calculatedSize <= 4 * MIB)
  t.ok(cache.has('19999'))
  t.notOk(cache.has('0'))
})

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** How much memory is in use after garbage collection, in bytes. */
function used(): number {
  collectGarbage()
  collectGarbage()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

const NAMES = 300
/** A name of 100 kB that nothing else references. */
const longName = (n: number) => Buffer.alloc(100_000, `${n} `).toString('latin1')

t.test('channel names, parts of questions and answers leave little behind', async (t) => {
  const { database } = await withPostgres(t)
  const dbUri = await database()
  await build(t, { dbUri, migrate: true })
  await query(dbUri, `select pgws.retain('kept:*', '1 minute')`)
  const durable = new RetentionRules((text, values) => query(dbUri, text, values))
  await durable.refresh()
  const before = used()
  for (let n = 0; n < NAMES; n++) durable.ageOf(longName(n))
  t.ok(used() - before < 15 * MIB, 'channel names')
  t.equal(durable.ageOf('kept:1'), 60)

  const parts = new Multipart()
  const without = used()
  for (let n = 0; n < 300_000; n++) parts.add(`${n}`, 0, '', false)
  t.ok(used() - without < 60 * MIB, 'questions')

  const answers = new Answers(['0000000000000000'])
  const empty = used()
  for (let n = 0; n < 10 * NAMES; n++) answers.addPart(`${n}`, 0, longName(n), false)
  t.ok(used() - empty < 100 * MIB, 'answers')
  t.same(answers.missing, ['0000000000000000'])
})
