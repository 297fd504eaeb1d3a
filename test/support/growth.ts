import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { Test } from 'tap'
import ts from 'typescript'
import { root } from './root.js'

/** A regular expression in a source file. */
export interface Literal {
  source: string
  flags: string
  /** `lib/address.ts:14` */
  place: string
}

/**
 * Finds all regular expressions of this repository's sources.
 * @returns the literals; and the places of expressions that are computed at run time, which cannot be tested
 */
export function regularExpressions(): { literals: Literal[]; computed: string[] } {
  const literals: Literal[] = []
  const computed: string[] = []
  for (const path of ownFiles()) {
    const text = readFileSync(join(root, path), 'utf8')
    for (const [code, line] of path.endsWith('.html') ? scriptsOf(text) : [[text, 0] as const]) {
      const file = ts.createSourceFile(path, code, ts.ScriptTarget.Latest, true)
      const visit = (node: ts.Node): void => {
        const at = line + file.getLineAndCharacterOfPosition(node.getStart()).line + 1
        if (ts.isRegularExpressionLiteral(node)) {
          const end = node.text.lastIndexOf('/')
          literals.push({
            source: node.text.slice(1, end),
            flags: node.text.slice(end + 1),
            place: `${path}:${at}`
          })
        } else if (ts.isIdentifier(node) && node.text === 'RegExp') computed.push(`${path}:${at}`)
        ts.forEachChild(node, visit)
      }
      visit(file)
    }
  }
  return { literals, computed }
}

function ownFiles(): string[] {
  const below = ['lib', 'plugins', 'routes', 'public'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true }).map((name) => join(folder, String(name)))
  )
  return [...readdirSync(root), ...below].filter(
    (path) => /\.(?:[jt]s|html)$/.test(path) && !/(?:centrifuge|uPlot)\.js$/.test(path)
  )
}

/** The scripts in an HTML page, each with the number of its first line. */
function* scriptsOf(html: string): Generator<readonly [string, number]> {
  for (const { 1: code, index } of html.matchAll(/<script[^>]*>(.*?)<\/script>/gs)) {
    yield [code!, html.slice(0, index).split('\n').length - 1]
  }
}

/** Parts of texts that make a regular expression continue a match, or fail and backtrack. */
interface Parts {
  /** Texts to repeat. */
  pumps: string[]
  prefixes: string[]
  suffixes: string[]
}

const CANDIDATES = [...'aZ0_- \t"\'\\:;/.@%?=&#{}[]*+~\n\0é\ufffd']

/** Derives texts from an expression: what its literals and classes match, alone, in pairs, and all in sequence. */
export function partsOf({ source, flags }: Pick<Literal, 'source' | 'flags'>): Parts {
  const mode = flags.includes('u') ? 'u' : ''
  const tokens = source.match(
    /\\[up]\{[^}]*\}|\\u[\da-f]{4}|\\x[\da-f]{2}|\\.|\[(?:\\.|[^\]\\])*\]|\(\?<?[:=!]|\{\d*,?\d*\}|./gisu
  )!
  const alphabet = new Set<string>()
  const runs = new Set<string>()
  const rows = new Set<string>()
  let run = ''
  let row = ''
  const endRun = () => {
    if (run.length > 1) runs.add(run)
    run = ''
  }
  for (const token of tokens) {
    if (/^(?:\(.*|[)|^$*+?]|\{\d.*\}|\\[bB])$/su.test(token)) {
      endRun()
      continue
    }
    const one = new RegExp(`^${token}$`, `${mode}s${flags.includes('i') ? 'i' : ''}`)
    const matching = CANDIDATES.filter((candidate) => one.test(candidate))
    const literal = token.length === 1 && token !== '.' ? token : undefined
    const chosen = literal ?? matching[0]
    if (chosen === undefined) {
      endRun()
      continue
    }
    if (literal !== undefined || /^\\[^wWdDsS]/.test(token)) run += chosen
    else endRun()
    alphabet.add(chosen)
    if (literal === undefined && matching.length > 1) alphabet.add(matching.at(-1)!)
    row += chosen
    rows.add(row)
  }
  endRun()
  const letters = [...alphabet].slice(0, 12)
  return {
    pumps: [...runs, ...letters, ...letters.flatMap((a) => [...letters, ...runs].map((b) => a + b)), ...rows],
    prefixes: ['', ...runs, ...letters, ...rows],
    suffixes: ['', '\0', '\n', 'a', ' ']
  }
}

/** Runs in a worker, which the test terminates if it hangs. */
const MEASURING = `
const { parentPort } = require('node:worker_threads')
const time = (expression, text) => {
  const begun = process.hrtime.bigint()
  text.replace(expression, '')
  return Number(process.hrtime.bigint() - begun)
}
const least = (expression, input, count, runs) => {
  const text = input.prefix + input.pump.repeat(count) + input.suffix
  let shortest = Infinity
  for (let run = 0; run < runs; run++) shortest = Math.min(shortest, time(expression, text))
  return shortest
}
parentPort.on('message', ({ source, flags, parts: { pumps, prefixes, suffixes } }) => {
  const expression = new RegExp(source, flags)
  const inputs = []
  for (const pump of new Set(pumps))
    for (const prefix of new Set(prefixes))
      for (const suffix of suffixes) inputs.push({ prefix, pump, suffix })
  for (const input of inputs) input.time = least(expression, input, 1000, 2)
  inputs.sort((a, b) => b.time - a.time)
  let worst = { growth: 0 }
  for (const input of inputs.slice(0, 5)) {
    // The text is so long that noise matters little.
    let count = 1000
    while (count < 128000 && least(expression, input, count, 3) < 500000) count *= 2
    let growth = Infinity
    for (let tries = 0; tries < 4 && growth > 3; tries++)
      growth = Math.min(growth, least(expression, input, 2 * count, 5) / least(expression, input, count, 5))
    if (growth > worst.growth) worst = { ...input, count, growth }
  }
  parentPort.postMessage(worst)
})
`

/** The input for which a regular expression's time grows most. */
export interface Growth {
  /** By what factor the time grows when the input is doubled: 2 is linear, 4 is quadratic. */
  growth: number
  prefix: string
  pump: string
  suffix: string
}

/**
 * Returns a function that measures a regular expression. It throws an Error if the measurement does not end, because the
 * time grows too fast.
 */
export function measuring(t: Test): (literal: Pick<Literal, 'source' | 'flags'>) => Promise<Growth> {
  const worker = new Worker(MEASURING, { eval: true, execArgv: [] })
  t.teardown(() => worker.terminate())
  return async ({ source, flags }) => {
    worker.postMessage({ source, flags, parts: partsOf({ source, flags }) })
    const signal = AbortSignal.timeout(120_000)
    const [growth] = await once(worker, 'message', { signal }).catch((error) => {
      throw new Error(`/${source}/ does not end`, { cause: error })
    })
    return growth as Growth
  }
}
