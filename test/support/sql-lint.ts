import type { Node } from 'typescript'
import { typescript as ts } from './typescript.js'

/** Words before a parenthesis that belong to PostgreSQL's grammar. Any other word may be a function of another schema. */
const GRAMMAR = new Set(
  `all and any array as by case cast check coalesce conflict default distinct else except exclude exists extract filter
   from greatest grouping having if index insert intersect into key lateral least limit materialized not of offset on only
   operator or order over partition primary references returning row rows select set some then union unique using values when
   where while with within`.split(/\s+/)
)

/** Types that are words of the grammar, which are always those of pg_catalog (SystemTypeName in gram.y). */
const GRAMMAR_TYPES = new Set(
  'bigint bit boolean char character dec decimal double float int integer interval national nchar numeric real smallint time timestamp varchar'.split(
    ' '
  )
)

/** Words that look up an operator by its unqualified name (parse_expr.c and gram.y). */
const HIDDEN_OPERATORS = new Set('between ilike in like nullif overlaps similar using'.split(' '))

/** Replaces TypeScript expressions in a statement. */
const HOLE = '$hole$'

interface Token {
  text: string
  kind: 'word' | 'quoted' | 'string' | 'operator' | 'punctuation' | 'hole' | 'number'
}

const TOKENS = [
  ['comment', /--[^\n]*|\/\*[\s\S]*?\*\//y],
  ['space', /\s+/y],
  // The number of a parameter may be a TypeScript expression.
  ['number', /\$(?:\d+|\$hole\$)|\d+(?:\.\d+)?/y],
  ['string', /e'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|(\$(?!hole\$)[a-z_]*\$)[\s\S]*?\1/iy],
  ['quoted', /"(?:[^"]|"")*"/y],
  ['hole', /\$hole\$/y],
  ['word', /[a-z_][\w$]*/iy],
  ['punctuation', /::|:=|=>|\.\.|[()[\],;.:]/y],
  ['operator', /[-+*/<>=~!@#%^&|`?]+/y]
] as const

function tokensOf(sql: string): Token[] {
  const tokens: Token[] = []
  for (let at = 0; at < sql.length; ) {
    let length = 0
    for (const [kind, pattern] of TOKENS) {
      pattern.lastIndex = at
      const [text] = pattern.exec(sql) ?? []
      if (text === undefined) continue
      length = text.length
      if (kind !== 'comment' && kind !== 'space') {
        tokens.push({ kind, text: kind === 'word' ? text.toLowerCase() : text })
      }
      break
    }
    if (length === 0) throw new Error(`unexpected: ${sql.slice(at, at + 20)}`)
    at += length
  }
  return tokens
}

/**
 * Finds what a statement resolves through the session's search path: functions, types and operators that are not
 * qualified, and words of SQL that look up an operator by its unqualified name.
 */
export function unqualified(sql: string): string[] {
  const tokens = tokensOf(sql)
  const found: string[] = []
  // A part of a statement may use names that are defined outside of it.
  const whole = /^\s*(?:select|with|insert|update|delete)\b/i.test(sql)
  const text = (index: number) => tokens[index]?.text ?? ''
  // Names of common table expressions and of computed columns.
  const common = new Set(
    tokens.flatMap(({ text: name }, index) =>
      text(index + 1) === 'as' && ['(', 'materialized'].includes(text(index + 2)) ? [name] : []
    )
  )
  const isName = (index: number) => ['word', 'quoted', 'hole'].includes(tokens[index]?.kind ?? '')
  for (const [index, token] of tokens.entries()) {
    const before = text(index - 1)
    const after = text(index + 1)
    if (token.kind === 'word' && HIDDEN_OPERATORS.has(token.text) && before !== '.') {
      const harmless = token.text === 'using' && after !== '('
      if (!harmless) found.push(token.text)
    } else if (
      token.kind === 'word' &&
      token.text === 'distinct' &&
      before !== 'select' &&
      after === 'from'
    ) {
      found.push('is distinct from')
    } else if (token.kind === 'word' && token.text === 'case' && after !== 'when') {
      found.push('case with a value')
    } else if (isRelation(index) && !common.has(token.text)) {
      found.push(`relation ${token.text}`)
    } else if (token.kind === 'word' && after === '(' && before !== '.' && !GRAMMAR.has(token.text)) {
      // An alias with its columns, a table to insert into, and a common table expression are not functions.
      const named = ['as', ')', 'with', 'recursive', 'into'].includes(before) || isAlias(index)
      if (!named) found.push(`${token.text}()`)
    } else if (token.text === '::') {
      if (text(index + 2) !== '.' && !GRAMMAR_TYPES.has(after) && tokens[index + 1]?.kind !== 'hole') {
        found.push(`::${after}`)
      }
    } else if (token.kind === 'operator') {
      if (isQualified(index) || isStar(index) || isAssignment(index)) continue
      found.push(token.text)
    }
  }
  return found

  /** `from name`, and not `from schema.name`, nor `from name()`. */
  function isRelation(index: number): boolean {
    if (!whole || tokens[index]!.kind !== 'word' || GRAMMAR.has(text(index))) return false
    if (text(index - 2) === 'distinct') return false
    return (
      ['from', 'join', 'into', 'update'].includes(text(index - 1)) && !['.', '('].includes(text(index + 1))
    )
  }

  /** `from x name (columns)` */
  function isAlias(index: number): boolean {
    return isName(index - 1) && !GRAMMAR.has(text(index - 1)) && text(index - 1) !== 'select'
  }

  /** `operator(pg_catalog.=)` */
  function isQualified(index: number): boolean {
    return text(index - 1) === '.' && text(index - 2) === 'pg_catalog' && text(index - 4) === 'operator'
  }

  /** `select *`, `count(*)`, `x.*` */
  function isStar(index: number): boolean {
    return text(index) === '*' && ['select', '(', '.', ','].includes(text(index - 1))
  }

  /** `set x = 1, y = 2` of UPDATE, up to its FROM, WHERE or RETURNING. */
  function isAssignment(index: number): boolean {
    if (text(index) !== '=' || !isName(index - 1) || !['set', ','].includes(text(index - 2))) return false
    let depth = 0
    for (let at = index; at >= 0; at--) {
      if (text(at) === ')') depth++
      if (text(at) === '(') depth--
      if (depth < 0) return false
      if (depth > 0) continue
      if (text(at) === 'set') return true
      if (['from', 'where', 'returning', 'select', ';'].includes(text(at))) return false
    }
    return false
  }
}

/** Matches a statement or a part of one, and no other text. */
const SQL =
  /\b(?:select|insert into|delete from|update \S+ set|returning|order by)\b[\s\S]*\b(?:from|values|as|where|set)\b|\bpg_catalog\.|\bpg_\w+\([^)]|\bset_config\(|\bselect\s+(?:pgws|\$hole\$)|\$hole\$\s*\(.*\$\d|^\s*(?:select|greatest|with|create table) /

/** Finds the statements, and parts of statements, in a source file, each with its line. */
export function statementsOf(file: string, source: string): { line: number; sql: string }[] {
  const tree = ts.createSourceFile(file, source, ts.ScriptTarget.Latest, true)
  const found: { line: number; sql: string }[] = []
  const visit = (node: Node): void => {
    let sql: string | undefined
    if (ts.isStringLiteralLike(node)) sql = node.text
    else if (ts.isTemplateExpression(node)) {
      sql = [node.head.text, ...node.templateSpans.flatMap(({ literal }) => [HOLE, literal.text])].join('')
    }
    if (sql !== undefined && SQL.test(sql)) {
      found.push({ line: tree.getLineAndCharacterOfPosition(node.getStart()).line + 1, sql })
    }
    ts.forEachChild(node, visit)
  }
  visit(tree)
  return found
}
