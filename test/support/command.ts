import type { Test } from 'tap'
import { run } from './app.js'

/** Runs a command until it exits. */
export async function command(t: Test, args: string[], environment: Record<string, string> = {}) {
  const app = await run(t, environment, args)
  let printed = ''
  app.child.stdout!.on('data', (chunk) => {
    printed += chunk
  })
  const code = await app.exit
  /** `printed` is its standard output; `output` includes standard error. */
  return { code, printed, output: app.output() }
}
