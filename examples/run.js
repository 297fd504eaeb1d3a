// npm run example -- <name>: installs what the example needs, and starts it.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

const { dirname: here } = import.meta
const names = readdirSync(here, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name)
const [name = ''] = process.argv.slice(2)
if (!names.includes(name)) {
  console.error(`Which example? npm run example -- ${names.join(' | ')}`)
  process.exit(1)
}
const folder = join(here, name)
const npm = (cwd, ...args) => {
  const { status } = spawnSync('npm', args, { cwd, stdio: ['ignore', 'ignore', 'inherit'] })
  if (status !== 0) process.exit(status ?? 1)
}
const root = join(here, '..')
if (!existsSync(join(root, 'dist/index.js'))) npm(root, 'run', '--silent', 'build')
npm(folder, 'install', '--silent', '--no-package-lock', '--no-audit', '--no-fund', '--prefer-offline')

const child = spawn(process.execPath, ['server.js'], { cwd: folder, stdio: 'inherit' })
// Ctrl-C reaches the example by itself, because it is in the same process group. It says when it has ended.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => child.kill('SIGTERM'))
child.on('exit', (code) => process.exit(code ?? 1))
