// Publishes and reads while nodes, connections and PostgreSQL fail at random, and then checks the history of all of it
// against what docs/guarantees.md promises:
//   npm run check -- --minutes 10 --seed 7 [--standby] [--previous] [--bus nats]
//   npm run check -- --history FOLDER    checks a saved history
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { account } from './account.js'
import { check } from './checker.js'
import { Faults } from './faults.js'
import { History } from './history.js'
import { Random } from './random.js'
import { record } from './record.js'
import { System } from './system.js'

const { values: given } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    nodes: { type: 'string', default: '3' },
    standby: { type: 'boolean', default: false },
    previous: { type: 'boolean', default: false },
    bus: { type: 'string', default: 'notify' },
    history: { type: 'string', default: '' }
  }
})
const minutes = Number(given.minutes)
const seed = Number(given.seed)
const nodes = Number(given.nodes)
const bus = given.bus === 'notify' || given.bus === 'nats' ? given.bus : undefined
if (!(minutes > 0) || !Number.isSafeInteger(seed) || !(nodes > 0) || bus === undefined) {
  console.error(
    'usage: npm run check -- [--minutes N] [--seed N] [--nodes N] [--standby] [--previous] [--bus notify|nats], or npm run check -- --history FOLDER'
  )
  process.exit(2)
}

/** The maximum number of violations that are printed. Others are usually similar. */
const SHOWN = 20

const ends: (() => unknown)[] = []
const owner = { teardown: (end: () => unknown) => void ends.push(end) }
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => end().then(() => process.exit(1)))
}
process.exitCode = await main().finally(end)
process.exit()

async function end(): Promise<void> {
  for (;;) {
    const next = ends.pop()
    if (next === undefined) return
    await next()
  }
}

async function main(): Promise<number> {
  if (given.history !== '') return report(History.load(given.history))
  console.log(
    `${minutes} minutes, seed ${seed}, ${nodes} nodes${given.previous ? ', one of the previous release' : ''}${given.standby ? ', a standby' : ''}${bus === 'nats' ? ', NATS' : ''}`
  )
  const random = new Random(seed)
  const { standby, previous } = given
  const system = await System.start(owner, { nodes, standby, previous, bus: bus! })
  const recorded = new History()
  // The previous release has no bus.
  if (previous && bus === 'nats') recorded.mixed.push({ from: 0, to: Number.MAX_VALUE })
  try {
    await record(owner, system, random, recorded, async (readers) => {
      await new Faults(system, recorded, readers).inject(random.fork(), minutes * 60_000)
    })
  } catch (error) {
    console.error(error)
    keep(recorded, system)
    return 1
  }
  let status = report(recorded)
  if (system.nats !== undefined) {
    const messages = system.nodes.reduce((sum, node) => sum + node.busMessages, 0)
    console.log(`${messages} messages went over NATS`)
    // What was checked would be something else. Beside a server without a bus, as the previous release is, none do.
    if (!previous && messages < recorded.transactions.length) {
      console.error('too few messages went over NATS')
      status = 1
    }
  }
  if (status !== 0) keep(recorded, system)
  return status
}

/** Prints a summary, and the violations. */
function report(history: History): number {
  const violations = check(history)
  console.log(account(history))
  for (const { rule, text } of violations.slice(0, SHOWN)) console.error(`${rule}: ${text}`)
  if (violations.length > SHOWN) console.error(`and ${violations.length - SHOWN} more`)
  console.log(violations.length === 0 ? 'All promises were kept.' : `BROKEN: ${violations.length} violations`)
  return violations.length === 0 ? 0 : 1
}

function keep(history: History, { nodes }: System): void {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-check-'))
  history.save(folder)
  mkdirSync(join(folder, 'logs'))
  for (const { name, output } of nodes) writeFileSync(join(folder, 'logs', `${name}.log`), output)
  console.error(`the history of seed ${seed} is in ${folder}: npm run check -- --history ${folder}`)
}
