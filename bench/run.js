// Runs each case with our server and others, in turns, and prints medians and ratios. If all cases ran completely, it
// writes results.md, and results.svg from it.
//   npm run bench -- [--quick] [case …]
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { startEmbeddedPostgres } from '../dist/lib/embedded-postgres/server.js'
import { CASES } from './cases.js'
import { drawChart } from './chart.js'
import { median } from './harness.js'

const words = process.argv.slice(2)
const quick = words.includes('--quick')
const wanted = words.filter((word) => !word.startsWith('--'))
const PAIRS = quick ? 1 : 7
/** The number of runs of servers that are neither ours nor the limit. */
const OTHERS = 3

for (const name of wanted) {
  if (!(name in CASES))
    throw new Error(`there is no case "${name}"; there are ${Object.keys(CASES).join(', ')}`)
}

const lines = []
function print(line) {
  console.log(line)
  lines.push(line)
}

/** @returns for each server, the figures of its runs */
async function runCase({ servers, run, runAll, pairs = PAIRS }, dbUri) {
  const results = servers.map(() => [])
  for (let pair = 0; pair < Math.min(pairs, PAIRS); pair++) {
    if (runAll) {
      for (const [i, result] of (await runAll(servers, dbUri, quick)).entries()) results[i].push(result)
      continue
    }
    for (const [i, server] of servers.entries()) {
      // The first one is the reference. Servers that are many times slower need less precision.
      if (pair < OTHERS || server === 'ours' || server.startsWith('sdk') || i === 0)
        results[i].push(await run(server, dbUri, quick))
    }
  }
  return results
}

/** A case has one table, or several for parts of its results. */
function printCase(test, results) {
  for (const part of test.tables ?? [{}]) {
    const own = results.map((runs) => runs.map((run) => (part.of === undefined ? run : run[part.of])))
    table({ ...test, ...part }, own)
  }
  if (test.note !== undefined) print(`\n${test.note}`)
}

function table({ title, servers, figures, baseline = 'ours' }, results) {
  const names = Object.keys(figures)
  const medians = results.map((runs) => names.map((name) => median(runs.map((run) => run[name]))))
  const [first] = names
  const reference = medians[servers.indexOf(baseline)][0]
  print(`\n## ${title}\n`)
  print(`| server | ${Object.values(figures).join(' | ')} | ${baseline} : it (${figures[first]}) |`)
  print(`|---|${'---|'.repeat(names.length + 1)}`)
  for (const [i, server] of servers.entries()) {
    const shown = medians[i].map((value) =>
      value > 1000 ? Math.round(value).toLocaleString('en') : value.toPrecision(3)
    )
    const ratio = reference / medians[i][0]
    print(`| ${server} | ${shown.join(' | ')} | ${ratio > 0 && ratio < 1e6 ? ratio.toFixed(2) : '–'} |`)
  }
}

async function postgresVersion() {
  const client = new pg.Client(postgres.uri)
  await client.connect()
  const { rows } = await client.query('show server_version')
  await client.end()
  return rows[0].server_version
}

function versions(names) {
  const require = createRequire(import.meta.url)
  return names.map((name) => `${name} ${require(`${name}/package.json`).version}`)
}

const folder = mkdtempSync(join(tmpdir(), 'pgws-bench-'))
const settings = { fsync: 'off', synchronous_commit: 'off', max_connections: '200' }
const postgres = await startEmbeddedPostgres({ folder, settings })
try {
  for (const [name, test] of Object.entries(CASES)) {
    if (wanted.length > 0 ? !wanted.includes(name) : test.optional) continue
    if (test.unavailable !== undefined) print(`\n${test.unavailable}`)
    else printCase(test, await runCase(test, postgres.uri))
  }
  if (!quick && wanted.length === 0) {
    const machine = `${cpus().length} × ${cpus()[0].model}`
    const software = [
      `Node.js ${process.version}`,
      `PostgreSQL ${await postgresVersion()}`,
      ...versions(['ws', 'socket.io', '@socket.io/postgres-adapter'])
    ]
    const head = [
      '# Results',
      '',
      'Written by `npm run bench`. Database, server and load share the machine, so only the ratios mean anything.',
      `Medians of ${PAIRS} runs in turns (naive and socket-io: ${OTHERS}). ${machine}; ${software.join(', ')}.`
    ]
    writeFileSync(new URL('results.md', import.meta.url), `${[...head, ...lines].join('\n')}\n`)
    drawChart()
  }
} finally {
  await postgres.stop()
  for (const path of [folder, postgres.home, postgres.socketFolder])
    rmSync(path, { recursive: true, force: true })
}
