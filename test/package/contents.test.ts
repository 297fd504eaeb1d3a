import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { textOf } from '../support/pages.js'
import { root } from '../support/root.js'

interface Reached {
  files: Set<string>
  packages: Set<string>
}
const { reached } = (await import(join(root, 'scripts/package-files.js'))) as {
  reached: (kind: 'types' | 'programs') => Reached
}
const programs = reached('programs')
const types = reached('types')
const manifest = JSON.parse(textOf('package.json'))

const { stdout } = await promisify(execFile)('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
  cwd: root
})
const packed = (JSON.parse(stdout) as [{ files: { path: string }[] }])[0].files.map(({ path }) => path)

t.test('the package contains what is used, and nothing else', async (t) => {
  const folders = new Set(packed.map((path) => path.split('/')[0]))
  t.same([...folders].sort(), [
    ...['.env.example', 'LICENSE', 'README.md', 'SECURITY.md', 'dist', 'docs', 'package.json', 'public']
  ])
  for (const path of packed) {
    if (path.endsWith('.d.ts')) t.ok(types.files.has(path), `an entry's types need ${path}`)
    // TypeScript writes an empty module for a file with types only.
    else if (path.startsWith('dist/') && path.endsWith('.js')) {
      t.ok(programs.files.has(path) || /^export \{\};\s*$/.test(readFileSync(join(root, path), 'utf8')), path)
    } else if (path.startsWith('dist/')) t.match(path, /^dist\/lib\/schema\/sql\/\d{3}-[\w-]+\.sql$/)
  }
  t.ok(packed.includes('dist/commands/doctor/index.js'), 'commands that are loaded late')
  for (const name of ['centrifuge', 'dashboard/uPlot']) {
    for (const suffix of ['.js', '.LICENSE.txt'])
      t.ok(packed.includes(`public/${name}${suffix}`), name + suffix)
  }
})

t.test('each dependency is imported, and each import is a dependency', async (t) => {
  const used = new Set([...programs.packages, ...types.packages])
  for (const name of Object.keys(manifest.dependencies)) {
    t.ok(name.startsWith('@types/') ? types.packages.has(name.slice('@types/'.length)) : used.has(name), name)
  }
  const declared = { ...manifest.dependencies, ...manifest.peerDependencies, [manifest.name]: '' }
  for (const name of used) t.ok(name in declared, name)
})

t.test(
  "README's links and pictures work on the registry's page, which resolves them in the repository",
  async (t) => {
    const { repository, homepage } = manifest
    const [, url] = /^git\+(https:\/\/github\.com\/[\w-]+\/[\w-]+)\.git$/.exec(repository.url)!
    t.equal(repository.directory, undefined)
    t.equal(homepage, `${url}#readme`)
    const readme = textOf('README.md')
    const targets = [...readme.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!)
    t.ok(targets.some((target) => /\.png$/.test(target)))
    for (const target of targets) {
      if (/^[a-z]+:/.test(target)) t.match(target, /^https:\/\//)
      else {
        // Below the root of the repository, as GitHub and npm resolve it.
        t.match(target, /^(?:[\w-][\w./-]*)?(?:#[\w-]+)?$/)
        t.notMatch(target, /\.\./)
        t.ok(existsSync(join(root, target.split('#')[0]!)), target)
      }
    }
    // Neither page shows HTML.
    t.notMatch(readme.replaceAll(/^```.*?^```/gms, ''), /<(?:img|a|script)\b/)
  }
)
