import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { nkeys } from '@nats-io/transport-node'
import t from 'tap'
import { authenticatorOf, loadNats } from '../../../lib/bus/nats-credentials.js'
import { root } from '../../support/root.js'

const nats = await loadNats()
const seedOf = (pair: ReturnType<typeof nkeys.createUser>) => Buffer.from(pair.getSeed()).toString()
const user = nkeys.createUser()
const seed = seedOf(user)
const creds = (jwt: string, seed: string) => `-----BEGIN NATS USER JWT-----
${jwt}
------END NATS USER JWT------

************************* IMPORTANT *************************
NKEY Seed printed below can be used to sign and prove identity.

-----BEGIN USER NKEY SEED-----
${seed}
------END USER NKEY SEED------
`

t.test(
  'one option takes a token, a user with a password, the seed of an nkey, and a creds file',
  async (t) => {
    const answers = (text: string) => authenticatorOf(nats, text)('nonce')
    const sig = Buffer.from(user.sign(Buffer.from('nonce'))).toString('base64')
    t.same(answers('a-token\n'), { auth_token: 'a-token' })
    t.same(answers('user:pass:word'), { user: 'user', pass: 'pass:word' })
    t.match(answers(`${seed}\n`), { nkey: user.getPublicKey(), sig })
    t.match(answers(creds('a.b.c', seed)), { jwt: 'a.b.c', nkey: user.getPublicKey(), sig })
    t.match(answers(creds('a.b.c', seed).replaceAll('\n', '\r\n')), { jwt: 'a.b.c' })
  }
)

t.test('broken credentials are an error that names the variable, and does not repeat them', async (t) => {
  const broken = seed.replace(/^(.{20})(.)/, (_, start, letter) => `${start}${letter === 'A' ? 'B' : 'A'}`)
  const cases: [string, RegExp][] = [
    [broken, /broken seed/],
    [seedOf(nkeys.createAccount()), /begins with SU/],
    [creds('a.b.c', broken), /broken seed/],
    [creds('a.b.c', '').replace('USER NKEY SEED', ''), /complete creds file/],
    [creds('', seed), /complete creds file/],
    ['two\nlines', /complete creds file/]
  ]
  for (const [text, expected] of cases) {
    try {
      authenticatorOf(nats, text)
      t.fail(`${expected}`)
    } catch (error) {
      const { message } = error as Error
      t.match(message, expected)
      t.match(message, /PGWS_BUS_CREDENTIALS/)
      t.notOk(message.includes(text.slice(0, 20)), 'it does not repeat the text')
      t.notOk(message.includes(seed.slice(2, 20)), 'it does not repeat the seed')
    }
  }
})

t.test('without the client of NATS, the error names the package', async (t) => {
  const hooks = `export async function resolve(specifier, context, next) {
    if (specifier === '@nats-io/transport-node') throw Object.assign(new Error('none'), { code: 'ERR_MODULE_NOT_FOUND' })
    return next(specifier, context)
  }`
  const program = `
    import { register } from 'node:module'
    register('data:text/javascript,' + encodeURIComponent(${JSON.stringify(hooks)}))
    const { loadNats } = await import(${JSON.stringify(join(root, 'dist/lib/bus/nats-credentials.js'))})
    await loadNats().catch(({ message }) => console.log(message))`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program])
  t.equal(
    stdout,
    'fastify-pg-websockets: option "bus" (PGWS_BUS) needs the package @nats-io/transport-node, which cannot be loaded: run "npm install @nats-io/transport-node"\n'
  )
})
