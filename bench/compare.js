// Runs the servers of another commit and of this checkout in turns, and prints the ratio of each pair.
//   npm run bench:compare -- <commit> [--runs 5] [--quick] [case …]
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { startEmbeddedPostgres } from '../dist/lib/embedded-postgres/server.js'
import { CASES } from './cases.js'
import { median } from './harness.js'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

/** Our servers in each case that does not say them. `joined` measures an internal class, whose interface may have changed. */
const OURS = ['ours', 'sdk', 'durable', '10,000 kept', 'presence', 'presence pushed']
const LEFT_OUT = ['joined']

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { runs: { type: 'string', default: '5' }, quick: { type: 'boolean', default: false } }
})
const [commit, ...wanted] = positionals
const runs = Number(values.runs)
if (commit === undefined || !Number.isInteger(runs) || runs < 1) {
  throw new Error('expected: npm run bench:compare -- <commit> [--runs 5] [--quick] [case …]')
}
for (const name of wanted) {
  if (!(name in CASES))
    throw new Error(`there is no case "${name}"; there are ${Object.keys(CASES).join(', ')}`)
}

/** Builds the other commit in a folder of its own. */
function build(folder) {
  execFileSync('git', ['worktree', 'add', '--detach', folder, commit], { cwd: ROOT, stdio: 'ignore' })
  const same =
    execFileSync('git', ['diff', '--name-only', commit, '--', 'package-lock.json'], { cwd: ROOT }).length ===
    0
  if (same) symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
  else execFileSync('npm', ['ci', '--silent', '--ignore-scripts'], { cwd: folder, stdio: 'inherit' })
  execFileSync('npm', ['run', '--silent', 'build'], { cwd: folder, stdio: 'inherit' })
  return join(folder, 'dist')
}

async function measure(dist, test, server, dbUri) {
  if (dist === undefined) delete process.env.BENCH_DIST
  else process.env.BENCH_DIST = dist
  if (test.runAll) return (await test.runAll([server], dbUri, values.quick))[0]
  return test.run(server, dbUri, values.quick)
}

/** Above 1: this checkout is faster, or takes less. */
const ratioOf = (figure, now, before) => (figure === 'rate' ? now / before : before / now)
const shown = (value) => (value > 1000 ? Math.round(value).toLocaleString('en') : value.toPrecision(3))

const folder = mkdtempSync(join(tmpdir(), 'pgws-bench-'))
const other = join(folder, 'other')
let postgres
try {
  const before = build(other)
  postgres = await startEmbeddedPostgres({
    folder: join(folder, 'database'),
    settings: { fsync: 'off', synchronous_commit: 'off' }
  })
  console.log(`Medians of ${runs} pairs in turns, ${commit} and this checkout; a ratio above 1 is better.\n`)
  console.log('| case | server | figure | before | now | ratio: median (min to max) |')
  console.log('|---|---|---|---|---|---|')
  for (const [name, test] of Object.entries(CASES)) {
    if (LEFT_OUT.includes(name) || (wanted.length > 0 ? !wanted.includes(name) : test.optional)) continue
    for (const server of test.ours ?? test.servers.filter((one) => OURS.includes(one))) {
      const pairs = []
      let failure
      for (let i = 0; i < runs && failure === undefined; i++) {
        // Each runs first equally often, because the speed of the machine drifts.
        const results = []
        for (const dist of i % 2 === 0 ? [before, undefined] : [undefined, before]) {
          try {
            results.push(await measure(dist, test, server, postgres.uri))
          } catch (error) {
            if (dist === undefined) throw error
            failure = error
          }
        }
        pairs.push(i % 2 === 0 ? results : results.reverse())
      }
      // The other commit may do what the case is there to prevent.
      if (failure !== undefined) {
        console.log(`| ${name} | ${server} | | failed: ${failure.message} | | |`)
        continue
      }
      for (const figure of Object.keys(test.figures)) {
        const [then, now] = [0, 1].map((side) => median(pairs.map((pair) => pair[side][figure])))
        const ratios = pairs.map(([a, b]) => ratioOf(figure, b[figure], a[figure])).sort((a, b) => a - b)
        const range = `${ratios[0].toFixed(2)} to ${ratios.at(-1).toFixed(2)}`
        console.log(
          `| ${name} | ${server} | ${test.figures[figure]} | ${shown(then)} | ${shown(now)} | ${median(ratios).toFixed(2)} (${range}) |`
        )
      }
    }
  }
} finally {
  await postgres?.stop()
  if (existsSync(other)) {
    execFileSync('git', ['worktree', 'remove', '--force', other], { cwd: ROOT, stdio: 'ignore' })
  }
  for (const path of [folder, ...(postgres ? [postgres.home, postgres.socketFolder] : [])])
    rmSync(path, { recursive: true, force: true })
}
