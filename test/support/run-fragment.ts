import { typescript as ts } from './typescript.js'

const AsyncFunction = (async () => {}).constructor as FunctionConstructor

/**
 * Runs a TypeScript fragment of the documentation.
 * @param scope the values of its imports and free variables
 * @param result an expression
 * @returns the value of `result`
 */
export async function runFragment(
  code: string,
  scope: Record<string, unknown>,
  result = 'undefined'
): Promise<unknown> {
  const { outputText } = ts.transpileModule(code.replaceAll(/^import .*\n/gm, ''), {
    compilerOptions: { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext }
  })
  const body = outputText.replaceAll(/^export .*\n/gm, '')
  return AsyncFunction(...Object.keys(scope), `${body}\nreturn ${result}`)(...Object.values(scope))
}
