import { existsSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { Bridge } from '../../lib/bridge.js'
import { CLOSE_REASONS } from '../../lib/clients/connections/close-reason.js'
import { CLOSE } from '../../lib/clients/connections/connection.js'
import { optionSpecs, variableOf } from '../../lib/config/option-specs.js'
import { errors } from '../../lib/errors.js'
import { EVENT_TYPES } from '../../lib/events/index.js'
import { DISCONNECT, ERRORS, REJECTED, UNSUBSCRIBE } from '../../lib/protocols/centrifugo/wire/protocol.js'
import { variableSpecs } from '../../plugins/env.js'
import { PAGES, textOf } from '../support/pages.js'
import { root } from '../support/root.js'

/** The rows of a page's tables, as lists of cells. */
const rowsOf = (page: string) =>
  textOf(page)
    .split('\n')
    .filter((line) => line.startsWith('| '))
    .map((line) => line.split(' | ').map((cell) => cell.replace(/^\|? *| *\|?$/g, '')))

type OptionSpec = (typeof optionSpecs)['dbUri']

/** Options of the plugin without a variable. */
const PLUGIN_ONLY = ['prefix', 'decorator']
/** Three variables of the server are one option. */
const ENDPOINTS = ['audienceChannels', 'audiencePath', 'audiencePublic']

t.test('docs/options.md has each option and variable, with its default', async (t) => {
  const rows = rowsOf('docs/options.md')
  const documented = rows.flatMap(([option]) => [...(/^`(\w+)`$/.exec(option!) ?? [])].slice(1))
  t.same(documented.sort(), [...Object.keys(optionSpecs), ...PLUGIN_ONLY, 'endpoints'].sort())
  const known = Object.keys(variableSpecs).map(variableOf)
  const variables = rows.flatMap(([, variable]) => variable!.match(/PGWS_\w+/g) ?? [])
  t.same(variables.sort(), known.sort())

  const check = (name: string, { default: value, required }: OptionSpec, whose: string) => {
    const row = rows.find(([, variable]) => variable!.includes(`\`${variableOf(name)}\``))!
    const where = ENDPOINTS.includes(name) ? row[1]! : row[2]!
    if (required) t.match(where, /^required/, `${whose}: ${name}`)
    // An empty cell means "not supervised".
    else if (name === 'checkListenerInterval' && value === 0) t.match(where, /server: unset/)
    else if (value !== undefined) t.ok(where.includes(`\`${value}\``), `${whose}: ${name} is ${value}`)
  }
  for (const [name, spec] of Object.entries(optionSpecs)) check(name, spec, 'plugin')
  for (const [name, spec] of Object.entries(variableSpecs)) check(name, spec, 'server')
})

t.test('.env.example has each variable, with its default', async (t) => {
  const example = textOf('.env.example')
  t.same(
    [...example.matchAll(/^#?(PGWS_\w+)=/gm)].map(([, variable]) => variable).sort(),
    Object.keys(variableSpecs).map(variableOf).sort()
  )
  for (const [name, { default: value }] of Object.entries(variableSpecs)) {
    const [, shown] = new RegExp(`^#?${variableOf(name)}=(.*)$`, 'm').exec(example)!
    // Here, unset means 0.
    if (value !== undefined && name !== 'checkListenerInterval') t.equal(shown, String(value), name)
  }
})

t.test('docs/messages.md has each error, with its status', async (t) => {
  const rows = rowsOf('docs/messages.md')
  for (const create of Object.values(errors)) {
    const { code, statusCode } = new (
      create as new (
        ...values: unknown[]
      ) => Error & {
        code: string
        statusCode: number
      }
    )('', '', '')
    const found = rows.find((row) => row.some((cell) => cell.includes(`\`${code}\``)))
    t.ok(found, code)
    if (found?.length === 3)
      t.ok(found[0]!.split(', ').includes(String(statusCode)), `${code} is ${statusCode}`)
  }
  const codes = new Set(
    Object.values(errors).map((create) => new (create as new () => { code: string })().code)
  )
  for (const [code] of textOf('docs/messages.md').matchAll(/FST_PGWS_\w+/g)) t.ok(codes.has(code), code)
})

t.test('docs/messages.md has each close code, and each error of the SDKs', async (t) => {
  const rows = rowsOf('docs/messages.md')
  const has = (code: number, text = '') =>
    t.ok(
      rows.some(([first, second]) => first === String(code) && second!.includes(text)),
      `${code} ${text}`
    )
  for (const code of Object.values(CLOSE)) has(code)
  for (const { code, message } of Object.values(ERRORS)) has(code, message)
  has(REJECTED)
  for (const { code, reason } of Object.values(DISCONNECT)) has(code, reason.split(':')[0])
  for (const { code, reason } of Object.values(UNSUBSCRIBE)) {
    t.ok(textOf('docs/messages.md').includes(`${code} (\`${reason}\`)`), String(code))
  }
})

t.test(
  'docs/messages.md has each reason of a close, and docs/control-plane.md each type of event',
  async (t) => {
    const reasons = rowsOf('docs/messages.md').map(([first]) => first)
    for (const reason of Object.keys(CLOSE_REASONS)) t.ok(reasons.includes(`\`${reason}\``), reason)
    const types = rowsOf('docs/control-plane.md').flatMap(([first]) => first!.split(', '))
    for (const type of EVENT_TYPES) t.ok(types.includes(`\`${type}\``), type)
  }
)

t.test('docs/plugin.md has each member of the decorator', async (t) => {
  const text = textOf('docs/plugin.md')
  for (const name of Object.getOwnPropertyNames(Bridge.prototype)) {
    if (name !== 'constructor') t.match(text, new RegExp(`^\\| .*\`${name}[(\`]`, 'm'), name)
  }
})

/** The anchors of a page, as GitHub makes them of its headings. */
function anchorsOf(page: string): string[] {
  const text = textOf(page).replaceAll(/^```.*?^```/gms, '')
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, '')
      .replaceAll(' ', '-')
  )
}

t.test('all links have a target', async (t) => {
  for (const page of PAGES) {
    for (const [, target] of textOf(page).matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
      const [path, anchor] = target!.split('#')
      const file = path === '' ? page : join(dirname(page), path!)
      t.ok(existsSync(join(root, file)), `${page}: ${target}`)
      if (anchor !== undefined) t.ok(anchorsOf(file).includes(anchor), `${page}: ${target}`)
    }
  }
})

t.test('the README links to each page, and takes ten minutes to read', async (t) => {
  const readme = textOf('README.md')
  for (const page of PAGES) if (page !== 'README.md') t.ok(readme.includes(`](${page})`), page)
  t.ok(Buffer.byteLength(readme) <= 12 * 1024)
  t.ok(statSync(join(root, 'docs/images/page.png')).size < 100 * 1024)
})
