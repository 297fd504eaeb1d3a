// Runs test files, each in a process of its own, on one PostgreSQL:
//   node dist/test/run.js [test/durable.test.ts …]
import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, relative, resolve } from 'node:path'
import t from 'tap'
import { prepareTemplate, startPostgres } from './postgres.js'
import { Reporter } from './reporter.js'
import { root } from './root.js'

/** Only ends a file that hangs, however busy the machine is. In seconds. */
const TIMEOUT = 1200

/** What scripts of their own run, because it takes long or needs more than Node.js. */
const APART: Record<string, (file: string) => boolean> = {
  slow: (file) => SLOW.includes(file),
  package: (file) => PACKAGE.includes(file),
  browser: (file) => file.startsWith('test/browser/'),
  services: (file) => file.startsWith('test/services/')
}
/** What starts a PostgreSQL for each test, runs for a while to see what happens by chance, or measures. */
const SLOW = [
  'churn',
  'durable-faults',
  'failover',
  'fresh-tokens',
  'lib/embedded-postgres',
  'lib/regular-expressions',
  'rolling-upgrade'
].map((name) => `test/${name}.test.ts`)
/** They install the package as users do. */
const PACKAGE = ['beside-plugins', 'docs/commands', 'docs/snippets', 'package', 'testing', 'typescript'].map(
  (name) => `test/${name}.test.ts`
)

const { NODE_OPTIONS = '' } = process.env
const { postgres, stop } = await startPostgres({ max_connections: '400' })
t.teardown(stop)
await prepareTemplate(postgres)
process.env.PGWS_TEST_URI = postgres.uri
process.env.TAP_TIMEOUT = String(TIMEOUT)
// Each file has its own.
t.setTimeout(0)
// Without it, nothing sets the exit code: what is piped to standard output is not tap's own.
t.register()
t.pipe(new Reporter()).pipe(process.stdout)
t.jobs = Number(process.env.PGWS_TEST_JOBS) || availableParallelism() + 1
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
  const command = [`NODE_OPTIONS=${NODE_OPTIONS}`, process.execPath, '--enable-source-maps', compiled]
  const results = await t.spawn('/usr/bin/env', command, {
    name: file,
    buffered: true,
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: TIMEOUT * 1000
  })
  // Of tests that pass, these are warnings that they cause on purpose.
  const text = errors.get(file)
  if (!results?.ok && text) process.stderr.write(`standard error of ${file}:\n${text}`)
  errors.delete(file)
}

/** @param names files, or the name of a script's part; none for all that is in no such part */
function filesOf(names: string[]): string[] {
  const all = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.ts'))
    .map((file) => join('test', file))
    .sort()
  if (names.length === 0) return all.filter((file) => !Object.values(APART).some((holds) => holds(file)))
  return names.flatMap((name) => {
    const part = APART[name]
    return part === undefined ? relative(root, resolve(name)) : all.filter(part)
  })
}
