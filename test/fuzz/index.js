// Sends random input to a server, as strangers could: with and without a token, with and without SQL. Its process must stay
// alive, honest clients must receive every message in order, and memory must not grow.
//   npm run fuzz -- --minutes 60 --seed 7 --only sdk,rows
import { parseArgs } from 'node:util'
import fc from 'fast-check'
import { deadline, Target, until } from './target.js'
import { anyActions, run } from './ways/index.js'
import { restoreRows } from './ways/rows.js'
import { prepareSql } from './ways/sql.js'
import { Witnesses } from './witness.js'

const { values: given } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    // The path of a counterexample, as it was printed.
    path: { type: 'string', default: '' },
    only: { type: 'string', default: '' }
  }
})
const minutes = Number(given.minutes)
const seed = Number(given.seed)
if (!(minutes > 0) || !Number.isSafeInteger(seed)) {
  console.error(
    'usage: npm run fuzz -- [--minutes N] [--seed N] [--path PATH] [--only http,websocket,sdk,protobuf,notifications,rows,sql]'
  )
  process.exit(2)
}
/** The number of batches after which code, caches and pools exist. */
const WARM_UP = 40
/** How much the memory may grow after the warm-up (buffers, and code that is compiled late), in bytes. */
const TOLERANCE = 48 * 1024 * 1024

const target = await Target.start()
const {
  rows: [settings]
} = await target.pool.query('select epoch, listen_channel from pgws.settings')
let witnesses = await Witnesses.open(target)
const counts = await target.counts()
let batches = 0
let actions = 0
let messages = 0
let memory

/** Starts again after a failure, so that fast-check can shrink it. */
async function startAgain() {
  await witnesses.close()
  await restoreRows(target, settings)
  await target.run()
  witnesses = await Witnesses.open(target)
  await witnesses.check()
}
let broken = false
let failed
let current

/** If a process has ended, its end explains more than what failed without it. */
async function causeOf(error) {
  await new Promise((resolve) => setTimeout(resolve, 200))
  try {
    target.check()
    return error
  } catch (ended) {
    return ended
  }
}

async function holds(batch) {
  if (broken) await startAgain()
  broken = false
  try {
    const outcomes = await Promise.allSettled(batch.map((action) => run(action, target)))
    target.check()
    const rejected = outcomes.find(({ status }) => status === 'rejected')
    if (rejected !== undefined) throw rejected.reason
    await restoreRows(target, settings)
    messages += await witnesses.check()
    target.check()
  } catch (error) {
    broken = true
    deadline.milliseconds = 5000
    // The last failure is the smallest.
    failed = { error: await causeOf(error), batch }
    throw failed.error
  }
  batches++
  actions += batch.length
  if (batches === WARM_UP) memory = await target.memory()
}

console.log(`${minutes} minutes, seed ${seed}`)
await prepareSql(target)
let failure
try {
  await witnesses.check()
  const details = await fc.check(
    fc.asyncProperty(anyActions(given.only.split(',').filter(Boolean)), (batch) => {
      current = holds(batch)
      return current
    }),
    {
      seed,
      ...(given.path !== '' && { path: given.path }),
      numRuns: Number.MAX_SAFE_INTEGER,
      interruptAfterTimeLimit: minutes * 60_000,
      markInterruptAsFailure: false
    }
  )
  // A batch that hangs when the time is over has failed.
  await current?.catch(() => {})
  if (failed !== undefined) {
    const path = details.counterexamplePath === null ? '' : ` --path ${details.counterexamplePath}`
    failure = `${failed.error.stack}\n${shown(failed.batch)}\n--seed ${seed}${path}`
  } else if (memory !== undefined) await forgets()
} catch (error) {
  failure = error.stack
}

/** Checks that nothing is left of the strangers when they have disconnected. */
async function forgets() {
  let now
  await until(async () => {
    now = await target.counts()
    return now.join() === counts.join()
  }, 'as many connections and channels as at the beginning').catch((error) => {
    throw new Error(`${error.message}: ${counts} then, ${now} now; ${witnesses.left}`)
  })
  await until(async () => {
    now = await target.memory()
    return now < memory + TOLERANCE
  }, 'memory returns to where it was').catch((error) => {
    throw new Error(`${error.message}: ${megabytes(memory)} before, ${megabytes(now)} now`)
  })
  console.log(`memory ${megabytes(memory)} after the warm-up, ${megabytes(now)} at the end`)
}

/** Prints a batch, and repetitions in it only once. */
function shown(batch) {
  return fc
    .stringify(batch)
    .replaceAll('__proto__:null,', '')
    .replace(/(.{1,8}?)\1{15,}/gs, (all, text) => `${text}…(${all.length / text.length} times)`)
}

function megabytes(bytes) {
  return `${Math.round(bytes / 1e6)} MB`
}

await witnesses.close()
await target.stop()
console.log(`${batches} batches, ${actions} actions, ${messages} honest messages`)
if (failure !== undefined) {
  console.error(`FAILED\n${failure}`)
  process.exitCode = 1
}
process.exit()
