import { createRequire } from 'node:module'
import type ts from 'typescript'

/** The compiler. `import` would search its nine megabytes for the names of exports, which takes longer than running them. */
export const typescript: typeof ts = createRequire(import.meta.url)('typescript')
