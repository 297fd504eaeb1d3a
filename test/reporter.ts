import { Transform, type TransformCallback } from 'node:stream'
import { inSources } from './support/source-maps.js'

const HEADING = /^( *)# Subtest: (.*)/
const POINT = /^( *)(ok|not ok) \d+(?: - (.*?))?(?: # (.*))?$/
const DIAGNOSTIC = /^ *---$/
const COUNT = /^# \{ total: /
const BAIL_OUT = /^ *Bail out!/

/**
 * Turns TAP (https://testanything.org/tap-version-14-specification.html) into what a person reads: a line for each
 * file, what failed in full, what was skipped, and the count.
 */
export class Reporter extends Transform {
  #rest = ''
  /** The names of the tests around a line, the file's first. */
  readonly #path: string[] = []
  /** Whether a failure within was shown, for each of these. */
  readonly #shown: boolean[] = []
  /** The line that ends a diagnostic, and whether it is shown. */
  #diagnostic: { end: string; shown: boolean } | undefined
  #show = false
  readonly #failed: string[] = []

  constructor() {
    super({ decodeStrings: false })
  }

  override _transform(chunk: string | Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const lines = (this.#rest + chunk).split('\n')
    this.#rest = lines.pop()!
    for (const line of lines) this.#read(line)
    done()
  }

  override _flush(done: TransformCallback): void {
    if (this.#rest !== '') this.#read(this.#rest)
    done()
  }

  #read(line: string): void {
    if (this.#diagnostic !== undefined) {
      if (this.#diagnostic.shown) this.#write(inSources(line))
      if (line === this.#diagnostic.end) this.#diagnostic = undefined
      return
    }
    const heading = HEADING.exec(line)
    const point = POINT.exec(line)
    if (heading !== null) {
      this.#path.splice(heading[1]!.length / 4, Infinity, heading[2]!)
      this.#shown.splice(heading[1]!.length / 4, Infinity, false)
    } else if (point !== null) {
      const [, indentation, verdict, name = '', directive = ''] = point
      this.#point(indentation!.length / 4, verdict === 'ok', name, directive)
    } else if (DIAGNOSTIC.test(line)) {
      this.#diagnostic = { end: line.replace('---', '...'), shown: this.#show }
    } else if (COUNT.test(line)) {
      for (const file of this.#failed) this.#write(`failed: ${file}`)
      this.#write(line)
    } else if (BAIL_OUT.test(line)) {
      this.#write(line)
    }
  }

  /** @param directive the time that a test took, or why its result does not count */
  #point(depth: number, ok: boolean, name: string, directive: string): void {
    const path = [...this.#path.slice(0, depth), name].join(' > ')
    const ignored = /^(skip|todo)/i.test(directive)
    const failed = !ok && !ignored
    // A failed assertion in the test has already shown why it failed.
    const explained = this.#path.length > depth && this.#path[depth] === name && this.#shown[depth] === true
    this.#show = failed && !explained
    if (ignored) this.#write(`${path} # ${directive}`)
    else if (this.#show) this.#write(`not ok: ${path}`)
    if (failed) this.#shown.fill(true, 0, depth)
    if (depth > 0) return
    if (failed) this.#failed.push(name)
    const [, milliseconds] = /^time=([\d.]+)ms/.exec(directive) ?? []
    const seconds = milliseconds && `${(Number(milliseconds) / 1000).toFixed(1).padStart(6)} s`
    this.#write(`${ok ? 'ok    ' : 'not ok'} ${seconds ?? ''}  ${name}`)
  }

  #write(line: string): void {
    this.push(`${line}\n`)
  }
}
