import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { SECRET, withPostgres } from '../support/helper.js'
import { root } from '../support/root.js'

const run = promisify(execFile)

/** What each program does with the plugin, after importing it. */
const USE = `
const options: PgWebsocketsOptions = { dbUri: process.env.DB_URI!, jwtSecret: process.env.SECRET! }
async function main() {
  const fastify = Fastify()
  fastify.register(pgWebsockets, options)
  await fastify.ready()
  const health: Health = await fastify.pgws.health()
  console.log(health.status)
  await fastify.close()
  // @ts-expect-error an option of the wrong type
  const register = () => fastify.register(pgWebsockets, { dbUri: 5, jwtSecret: '' })
  void register
}
void main()
`
const TYPES = 'type Health, type PgWebsocketsOptions'

/** Programs by the name of their file. */
const PROGRAMS = {
  'default.mts': `import Fastify from 'fastify'
import pgWebsockets, { ${TYPES} } from 'fastify-pg-websockets'
import { Emitter } from 'fastify-pg-websockets/emitter'
import { createAdapter } from 'fastify-pg-websockets/socket.io'
if (typeof Emitter !== 'function' || typeof createAdapter !== 'function') throw new Error('no function')
${USE}`,
  'named.mts': `import Fastify from 'fastify'
import { pgWebsockets, ${TYPES} } from 'fastify-pg-websockets'
${USE}`,
  'bundled.ts': `import Fastify from 'fastify'
import pgWebsockets, { ${TYPES} } from 'fastify-pg-websockets'
${USE}`,
  'named.cts': `import Fastify from 'fastify'
import { pgWebsockets, ${TYPES} } from 'fastify-pg-websockets'
${USE}`,
  'whole.cts': `import Fastify from 'fastify'
import pgWebsockets = require('fastify-pg-websockets')
import type { Health, PgWebsocketsOptions } from 'fastify-pg-websockets'
${USE}`
}
type Program = keyof typeof PROGRAMS

const NODENEXT = ['--module', 'nodenext']
const ES_MODULES: [Program, string[]][] = [
  ['default.mts', NODENEXT],
  ['named.mts', ['--module', 'node16']],
  ['bundled.ts', ['--module', 'preserve', '--moduleResolution', 'bundler']]
]
/** TypeScript before 5.8 rejects requiring an ES module. */
const NAMED: [Program, string[]] = ['named.cts', NODENEXT]
/** TypeScript 5.9 and later know the export name "module.exports". */
const WHOLE: [Program, string[]] = ['whole.cts', NODENEXT]

/** By version: which programs it compiles, and whether it checks the declarations of all packages, too. */
const COMPILERS: Record<string, { programs: [Program, string[]][]; checked: boolean }> = {
  // The declarations of pg-protocol, which those of pg import, need TypeScript 5.7.
  '5.5': { programs: ES_MODULES, checked: false },
  '5.8': { programs: [...ES_MODULES, NAMED], checked: true },
  '5.9': { programs: [...ES_MODULES, NAMED, WHOLE], checked: true },
  latest: { programs: [...ES_MODULES, NAMED, WHOLE], checked: true }
}

t.test('strict TypeScript programs compile with the packed package, and run', async (t) => {
  const { database } = await withPostgres(t)
  const project = mkdtempSync(join(tmpdir(), 'pgws-typescript-'))
  t.teardown(() => rmSync(project, { recursive: true, force: true }))
  const env = { ...process.env, DB_URI: await database(), SECRET }
  await run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', project], { cwd: root })
  writeFileSync(join(project, 'package.json'), '{"private":true,"type":"module"}')
  // A TypeScript program has the types of Node.js, but none of our dependencies'.
  const compilers = Object.keys(COMPILERS).map((version) => `typescript-${version}@npm:typescript@${version}`)
  const packages = [
    './fastify-pg-websockets-0.1.0.tgz',
    'fastify@5',
    'socket.io-adapter',
    '@types/node@20',
    ...compilers
  ]
  await run('npm', ['install', '--silent', '--prefer-offline', ...packages], { cwd: project })

  // The test runner loads modules into each Node.js process. The newest compiler does not accept them.
  const bare = ['-u', 'NODE_OPTIONS', process.execPath]
  for (const [version, { programs, checked }] of Object.entries(COMPILERS)) {
    for (const [program, flags] of programs) {
      const title = `${program} with TypeScript ${version} ${flags.join(' ')}`
      const folder = join(project, version, program.replace('.', '-'))
      mkdirSync(folder, { recursive: true })
      writeFileSync(join(folder, program), PROGRAMS[program])
      const strict = ['--strict', '--exactOptionalPropertyTypes', '--esModuleInterop', '--target', 'es2022']
      const all = [...strict, ...(checked ? [] : ['--skipLibCheck']), ...flags, '--types', 'node', program]
      const tsc = join(project, 'node_modules', `typescript-${version}`, 'bin/tsc')
      const compiled = await run('env', [...bare, tsc, ...all], { cwd: folder }).then(
        () => true,
        ({ stdout, stderr }) => t.fail(title, { stdout, stderr })
      )
      if (compiled !== true) continue
      const script = join(folder, program.replace(/ts$/, 'js'))
      const { stdout } = await run(process.execPath, [script], { env })
      t.equal(stdout, 'ok\n', title)
    }
  }
})
