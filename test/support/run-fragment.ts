import ts from 'typescript'

const AsyncFunction = (async () => {}).constructor as FunctionConstructor

/**
 * Runs TypeScript of a page, whose imports and free names are values of a scope.
 * @returns the value of `result`, an expression
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
