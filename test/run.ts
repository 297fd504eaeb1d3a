// Runs test files, each in a process of its own, on one PostgreSQL:
//   node dist/test/run.js [test/lib/durable/durable.test.ts …]
import { spawnSync } from 'node:child_process'
import { readdirSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, relative, resolve } from 'node:path'
import t from 'tap'
import { Reporter } from './reporter.js'
import { initializeOnce, keepInMemory, prepareTemplate, startPostgres } from './support/postgres.js'
import { root } from './support/root.js'
import { inSources } from './support/source-maps.js'

/** Only ends a file that hangs, however busy the machine is. In seconds. */
const TIMEOUT = 1200

/** Folders that scripts of their own run, because they take long or need more than Node.js. */
const APART = ['slow', 'package', 'browser', 'services', 'examples']
const isIn = (folder: string) => (file: string) => file.startsWith(`test/${folder}/`)

/**
 * V8 compiles a function to optimized code after it has run for so long. Most test files are short, and compile code that
 * hardly runs again: a fifth of their processor time. A release of Node.js may not know the option.
 */
const LATE_OPTIMIZATION = '--interrupt-budget=1000000'
const { status } = spawnSync(process.execPath, [LATE_OPTIMIZATION, '--eval', ''])
const options = status === 0 ? [LATE_OPTIMIZATION] : []

const { NODE_OPTIONS = '' } = process.env
const forgetData = await initializeOnce()
const { postgres, stop } = await startPostgres({ max_connections: '400' })
const forget = await keepInMemory(postgres)
t.teardown(async () => {
  await stop()
  forget()
  forgetData()
})
await prepareTemplate(postgres)
process.env.PGWS_TEST_URI = postgres.uri
process.env.TAP_TIMEOUT = String(TIMEOUT)
// Each file has its own.
t.setTimeout(0)
// Without it, nothing sets the exit code: what is piped to standard output is not tap's own.
t.register()
t.pipe(new Reporter()).pipe(process.stdout)
// A test waits for something more than half of its time. With two at a time for each core, a core is idle for a sixth of it.
t.jobs = Number(process.env.PGWS_TEST_JOBS) || 3 * availableParallelism()
/** What each file wrote to standard error. */
const errors = new Map<string, string>()
t.on('spawn', (file) => {
  file.on('process', ({ stderr }) => {
    stderr?.on('data', (chunk) => errors.set(file.name, `${errors.get(file.name) ?? ''}${chunk}`))
  })
})
await Promise.all(filesOf(process.argv.slice(2)).map(run))

async function run(file: string): Promise<void> {
  const compiled = join(root, 'dist', file.replace(/\.ts$/, '.js'))
  // tap hands a module loader to its children, which nothing here needs.
  const command = [`NODE_OPTIONS=${NODE_OPTIONS}`, process.execPath, ...options, compiled]
  const results = await t.spawn('/usr/bin/env', command, {
    name: file,
    buffered: true,
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: TIMEOUT * 1000
  })
  // Of tests that pass, these are warnings that they cause on purpose.
  const text = errors.get(file)
  if (!results?.ok && text) process.stderr.write(inSources(`standard error of ${file}:\n${text}`))
  errors.delete(file)
}

/** @param names files or folders of tests, or the names of folders that are apart; none for all that are not */
function filesOf(names: string[]): string[] {
  const all = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.ts'))
    .map((file) => join('test', file))
    .sort((a, b) => sizeOf(b) - sizeOf(a))
  if (names.length === 0) return all.filter((file) => !APART.some((folder) => isIn(folder)(file)))
  return names.flatMap((name) => {
    if (APART.includes(name)) return all.filter(isIn(name))
    const path = relative(root, resolve(name))
    return path.endsWith('.ts') ? path : all.filter((file) => file.startsWith(`${path}/`))
  })
}

/** Large files take long. They begin first, so that none is left over at the end, when it would run alone. */
function sizeOf(file: string): number {
  return statSync(join(root, file)).size
}
