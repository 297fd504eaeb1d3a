import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './root.js'

/** A fenced code block in a page of the documentation. */
export interface Block {
  /** The page's path in the repository. */
  page: string
  /** The heading above it. */
  heading: string
  /** The number of its first line. */
  line: number
  /** The text after the opening fence. */
  language: string
  code: string
}

/** The paths of all pages of the documentation in the repository. */
export const PAGES: readonly string[] = [
  'README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.md'))
    .map((path) => `docs/${path}`)
    .sort()
]

/** The text of a page. */
export const textOf = (page: string): string => readFileSync(join(root, page), 'utf8')

/** The fenced code blocks of a page, in order. */
export function blocksOf(page: string): Block[] {
  const blocks: Block[] = []
  let open: Block | undefined
  let heading = ''
  for (const [index, line] of textOf(page).split('\n').entries()) {
    if (line.startsWith('```')) {
      if (open === undefined) open = { page, heading, line: index + 1, language: line.slice(3), code: '' }
      else {
        blocks.push(open)
        open = undefined
      }
    } else if (open !== undefined) open.code += `${line}\n`
    else if (/^#+ /.test(line)) heading = line.replace(/^#+ /, '')
  }
  return blocks
}

/**
 * The code of the only block of a page that contains a text. The test that every block is run searches the tests for calls
 * of this function, so both arguments must be literals.
 */
export function snippet(page: string, fragment: string): string {
  const found = blocksOf(page).filter(({ code }) => code.includes(fragment))
  if (found.length !== 1) throw new Error(`${page} has ${found.length} blocks with ${fragment}`)
  return found[0]!.code
}
