// What the entries of the package reach, by way of imports. `node scripts/package-files.js` removes declarations of types
// that none of them reaches: TypeScript writes those of every file.
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(import.meta.dirname, '..')
const { exports: entries, bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/** `from '…'`, `import '…'`, `import('…')` and `require('…')`. */
const SPECIFIER = /\b(?:from\s*|import\s*\(?\s*|require\s*\(\s*)(['"])([^'"\n]+)\1/g

/** The files that a condition of `exports` names; for programs, the command, too. */
function entriesOf(kind) {
  const conditions = Object.values(entries).filter((entry) => typeof entry === 'object')
  const named = conditions.flatMap((entry) =>
    Object.entries(entry).filter(([condition]) => condition.startsWith('types') === (kind === 'types'))
  )
  const files = named.map(([, file]) => file)
  return kind === 'types' ? files : [...files, ...Object.values(bin)]
}

/**
 * Follows imports.
 * @param {'types' | 'programs'} kind declarations, or what runs
 * @returns the paths of files below the package's folder, and the packages that they import, Node.js' own excepted
 */
export function reached(kind) {
  const extension = kind === 'types' ? '.d.ts' : '.js'
  const files = new Set()
  const packages = new Set()
  const open = entriesOf(kind).map((file) => join(file))
  for (let file = open.pop(); file !== undefined; file = open.pop()) {
    if (files.has(file)) continue
    files.add(file)
    for (const [, , specifier] of readFileSync(join(root, file), 'utf8').matchAll(SPECIFIER)) {
      if (specifier.startsWith('.')) {
        const target = join(dirname(file), specifier).replace(/\.js$/, extension)
        if (existsSync(join(root, target))) open.push(target)
      } else {
        const name = specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/')
        if (!name.startsWith('node:') && !builtinModules.includes(name)) packages.add(name)
      }
    }
  }
  return { files, packages }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { files } = reached('types')
  for (const name of readdirSync(join(root, 'dist'), { recursive: true })) {
    const file = join('dist', name)
    if (file.endsWith('.d.ts') && !files.has(file)) rmSync(join(root, file))
  }
}
