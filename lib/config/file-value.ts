import { readFileSync } from 'node:fs'
import { codeOf, errors } from '../errors.js'
import { variableOf } from './option-specs.js'

/**
 * The value of an option, or the contents of the file that it names with `@`.
 * @throws InvalidOption if the file cannot be read
 */
export function readFileValue(name: string, value: string): string {
  if (!value.startsWith('@')) return value
  try {
    return readFileSync(value.slice(1), 'utf8')
  } catch (error) {
    throw new errors.InvalidOption(
      name,
      `(${variableOf(name)}) names a file that cannot be read (${codeOf(error)})`
    )
  }
}
