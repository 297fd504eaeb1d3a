import { existsSync, readFileSync } from 'node:fs'
import { SourceMap } from 'node:module'
import { dirname, relative, resolve } from 'node:path'
import { root } from './root.js'

/** A place in a compiled file, as in a stack trace: `file:///…/dist/test/a.test.js:4:7`. */
const PLACE = /(?:file:\/\/)?([^\s()'"]*\bdist\/[^\s()'":]+\.js):(\d+):(\d+)/g

/**
 * Replaces places in compiled files by those in their sources. Node.js could do this, too (`--enable-source-maps`), but then
 * each test process reads all source maps when it starts, which takes a tenth of the time of a short file.
 */
export function inSources(text: string): string {
  return text.replace(PLACE, (place, file: string, line: string, column: string) => {
    const path = resolve(root, file)
    if (!existsSync(`${path}.map`)) return place
    const map = new SourceMap(JSON.parse(readFileSync(`${path}.map`, 'utf8')))
    const entry = map.findEntry(Number(line) - 1, Number(column) - 1)
    if (!('originalSource' in entry)) return place
    const source = relative(root, resolve(dirname(path), entry.originalSource))
    return `${source}:${entry.originalLine + 1}:${entry.originalColumn + 1}`
  })
}
