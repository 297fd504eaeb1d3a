import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { type Block, blocksOf, PAGES } from '../support/pages.js'
import { READER } from '../support/reader.js'
import { root } from '../support/root.js'

/**
 * documentation-commands.test.ts runs `sh` and `sql`, test/services/nginx.test.ts runs `nginx`, and
 * test/services/nats-errors.test.ts runs `conf`.
 */
const LANGUAGES = ['conf', 'json', 'nginx', 'sh', 'sql', 'ts', 'mermaid']

/** Blocks of `ts` are run by tests that contain `snippet('page', 'text')`, or by these. */
const RUN_ELSEWHERE: Record<string, string> = {
  'docs/identity-providers.md': 'test/lib/auth/identity-providers.test.ts, each by its heading'
}

const all = PAGES.flatMap(blocksOf)

t.test('each block has a language that is tested', async (t) => {
  for (const { page, line, language } of all) {
    t.ok(LANGUAGES.includes(language), `${page}:${line} has the language "${language}"`)
  }
})

t.test('JSON blocks are valid: one value, or one per line', async (t) => {
  for (const { page, line, code } of all.filter(({ language }) => language === 'json')) {
    const values = code.startsWith('{\n') ? [code] : code.trim().split('\n')
    for (const value of values) t.doesNotThrow(() => JSON.parse(value), `${page}:${line}`)
  }
})

t.test('TypeScript compiles with the strictest options', async (t) => {
  const files = new Map([[join(root, 'test/docs/reader.d.mts'), READER]])
  const origins = new Map<string, Block>()
  for (const block of all.filter(({ language }) => language === 'ts')) {
    const file = join(root, 'test/docs', `${block.page.replaceAll('/', '-')}-${block.line}.mts`)
    files.set(file, `${block.code}\nexport {}\n`)
    origins.set(file, block)
  }
  const options: ts.CompilerOptions = {
    noEmit: true,
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.NodeNext,
    lib: ['lib.es2023.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts'],
    types: ['node']
  }
  const host = ts.createCompilerHost(options)
  const { fileExists, readFile, getSourceFile } = host
  host.fileExists = (path) => files.has(path) || fileExists(path)
  host.readFile = (path) => files.get(path) ?? readFile(path)
  host.getSourceFile = (path, ...more) => {
    const text = files.get(path)
    return text === undefined ? getSourceFile(path, ...more) : ts.createSourceFile(path, text, more[0])
  }
  host.getCurrentDirectory = () => root
  for (const diagnostic of ts.getPreEmitDiagnostics(ts.createProgram([...files.keys()], options, host))) {
    const { file, start = 0, messageText } = diagnostic
    const block = file && origins.get(file.fileName)
    const where = block
      ? `${block.page}:${block.line + 1 + file.getLineAndCharacterOfPosition(start).line}`
      : file?.fileName
    t.fail(`${where} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`)
  }
  t.ok(origins.size > 10)
})

t.test('a test runs each TypeScript block', async (t) => {
  const sources = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts'))
    .map((path) => readFileSync(join(root, 'test', path), 'utf8'))
    .join('\n')
  const named = [...sources.matchAll(/\bsnippet\(\s*'([^']+)',\s*(['"])(.+?)\2\s*\)/g)]
  for (const { page, line, code } of all.filter(({ language }) => language === 'ts')) {
    if (page in RUN_ELSEWHERE) continue
    const runs = named.some(([, path, , fragment]) => path === page && code.includes(fragment!))
    t.ok(runs, `${page}:${line} is run`)
  }
})
