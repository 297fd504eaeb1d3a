import { generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { keysFor, parseKeys } from '../../../lib/auth/keys.js'

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const rsaJwk = rsa.publicKey.export({ format: 'jwk' })
const HMAC = ['HS256', 'HS384', 'HS512']

t.test('row 6: a JWK set, else one JWK, else the text of a secret', async (t) => {
  const set = parseKeys(
    JSON.stringify({
      keys: [
        { ...rsaJwk, kid: 'a' },
        { kty: 'oct', k: 'c2VjcmV0', alg: 'HS384' }
      ]
    })
  )
  t.match(set, [
    { kid: 'a', algorithms: /RS256/ },
    { kid: undefined, algorithms: ['HS384'] }
  ])
  t.equal(set[1]!.secret!.toString(), 'secret')
  t.match(parseKeys(` ${JSON.stringify(rsaJwk)}\n`), [{ secret: undefined, publicKey: /BEGIN PUBLIC KEY/ }])
  for (const secret of ['plain', '{broken', '5', '"x"', '@', '/no/such/file', '{x}[y]', 'AAAA', 'ssh-rsa']) {
    const [key] = parseKeys(secret)
    t.same([key!.secret!.toString(), key!.algorithms], [secret, HMAC])
  }
})

t.test('row 6: base64, also of a JWK, in either alphabet', async (t) => {
  const bytes = Buffer.from([0xfb, 0xff, 0xfe, 1])
  for (const text of ['+//+AQ==', '-__-AQ..', '-__-AQ', ' +//+AQ== ']) {
    t.same(parseKeys(text, true)[0]!.secret, bytes, text)
  }
  t.match(parseKeys(Buffer.from(JSON.stringify(rsaJwk)).toString('base64'), true), [{ publicKey: String }])
  t.throws(() => parseKeys('not base64!', true), { code: 'FST_PGWS_INVALID_OPTION' })
})

t.test('a PEM is a public key, never the text of a secret', async (t) => {
  const pem = rsa.publicKey.export({ type: 'spki', format: 'pem' }) as string
  t.match(parseKeys(pem), [{ secret: undefined, algorithms: /PS512/ }])
  t.match(parseKeys(`\n${pem}`), [{ secret: undefined }])
})

const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const ed = generateKeyPairSync('ed25519')

/** Keys that were damaged on their way, and the names of keys. */
function brokenKeys(): [string, string | Buffer][] {
  const pem = (key: KeyObject, type: 'spki' | 'pkcs1' | 'pkcs8' | 'sec1') =>
    key.export({ type, format: 'pem' } as never) as unknown as string
  const spki = [rsa, ec, ed].map(({ publicKey }) => pem(publicKey, 'spki'))
  const pems = [...spki, pem(rsa.publicKey, 'pkcs1')]
  const body = (text: string) => text.split('\n').slice(1, -2).join('\n')
  const jwk = JSON.stringify(rsaJwk)
  const file = fileURLToPath(import.meta.url)
  return [
    ['a JWK with a comma too many', `${jwk.slice(0, -1)},}`],
    ['a JWK that was cut off', jwk.slice(0, 100)],
    ['a JWK in the quotes of JavaScript', jwk.replaceAll('"', "'")],
    ['a JWK in quotes', `'${jwk.slice(0, -1)},}'`],
    ['a JWK without kty', JSON.stringify({ ...rsaJwk, kty: undefined })],
    ['another object', '{"looks":"like JSON"}'],
    ['a list of JWKs', `[${jwk}]`],
    ['a JWK in base64', Buffer.from(jwk).toString('base64')],
    ...pems.flatMap((text): [string, string | Buffer][] => [
      ['PEM without its first line', text.slice(text.indexOf('\n') + 1)],
      ['PEM without its last line', text.slice(0, text.trimEnd().lastIndexOf('\n'))],
      ['PEM without both', body(text)],
      ['PEM without both, on one line', body(text).replaceAll('\n', '')],
      ['PEM with a dash less', text.slice(1).replace('-----END', '----END')],
      ['PEM whose line breaks were lost', text.replaceAll('\n', '\\n')],
      ['PEM in base64', Buffer.from(text).toString('base64')],
      ['PEM in UTF-16', Buffer.from(`\uFEFF${text}`, 'utf16le')],
      ['DER', Buffer.from(body(text), 'base64')]
    ]),
    ['PEM without both that was cut off', body(spki[0]!).slice(0, 120)],
    ['a private key without the lines of PEM', body(pem(ec.privateKey, 'sec1'))],
    ['a certificate without its first line', '\nMIIB\n-----END CERTIFICATE-----\n'],
    ['a key of OpenSSH', 'ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC me@host'],
    ['a key of OpenSSH', 'ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTY= me@host'],
    ['a key of OpenSSH without its type', 'AAAAC3NzaC1lZDI1NTE5AAAAIJ'],
    ['another one', 'AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTY='],
    ['a key of SSH2', '---- BEGIN SSH2 PUBLIC KEY ----\nAAAAB3NzaC1yc2E'],
    ['a key in XML', '<RSAKeyValue><Modulus>abc</Modulus></RSAKeyValue>'],
    ['the address of a JWK set', 'https://login.example.org/.well-known/jwks.json'],
    ['a file without @', file],
    ['a file in quotes', `"@${file}"`],
    ['a file behind a blank', ` @${file}`]
  ]
}

t.test('a text that looks like a key, or like the name of one, is no secret', async (t) => {
  for (const [what, value] of brokenKeys()) {
    const texts = [...(typeof value === 'string' ? [value] : []), Buffer.from(value).toString('base64')]
    for (const text of texts) {
      const error = t.throws(() => parseKeys(text, text !== value), what) as Error | undefined
      t.match(
        error,
        { code: 'FST_PGWS_INVALID_OPTION', message: /^.*"jwtSecret" \(PGWS_JWT_SECRET\) \S/ },
        what
      )
      t.notOk(error?.message.includes(text.slice(4, 40)), what)
    }
  }
})

t.test('a private key is rejected with an error of its own', async (t) => {
  for (const { privateKey } of [rsa, ec, ed]) {
    const pem = privateKey.export({ type: 'pkcs8', format: 'pem' }) as string
    const jwk = privateKey.export({ format: 'jwk' })
    for (const text of [pem, JSON.stringify(jwk), JSON.stringify({ keys: [jwk] })]) {
      t.throws(() => parseKeys(text), {
        message: /contains a private key: set the public key/
      })
    }
  }
})

t.test('accepts random bytes as a secret, plain and in base64', async (t) => {
  const taken = (text: string, base64: boolean) => parseKeys(text, base64)[0]!.secret!
  const others: string[] = []
  for (let round = 0; round < 3000; round++) {
    const bytes = randomBytes(16 + (round % 64))
    // They begin like a SEQUENCE in DER, or like JSON.
    if (round % 3 > 0) bytes[0] = round % 3 === 1 ? 0x30 : 0x7b
    const text = bytes.toString('base64url')
    if (!taken(text, true).equals(bytes) || taken(text, false).toString() !== text) others.push(text)
  }
  t.same(others, [])
  // Random bytes are not text, even if they happen to contain these characters.
  const chance = Buffer.concat([Buffer.from('{'), Buffer.from([0xfb, 0x01]), Buffer.from('use:')])
  t.same(taken(chance.toString('base64'), true), chance)
})

t.test('an unusable key is rejected, and the error does not repeat it', async (t) => {
  for (const text of [
    '{"keys":[]}',
    '{"keys":"geheim"}',
    '{"keys":[5]}',
    '{"keys":[{"kty":"oct"}]}',
    '{"keys":[{"kty":"RSA","n":"geheim","e":"AQAB","use":"enc"}]}',
    '{"kty":"geheim"}',
    '{"kty":"EC","crv":"P-256","x":"geheim","y":"geheim"}',
    '-----BEGIN PUBLIC KEY-----\ngeheim\n-----END PUBLIC KEY-----'
  ]) {
    try {
      parseKeys(text)
      t.fail(text)
    } catch (error) {
      t.match(error, { code: 'FST_PGWS_INVALID_OPTION', message: /"jwtSecret" \(PGWS_JWT_SECRET\)/ })
      t.notMatch((error as Error).message, /geheim/)
    }
  }
  const [only] = parseKeys(
    JSON.stringify({ keys: [{ kty: 'unknown' }, { ...rsaJwk, use: 'enc' }, { ...rsaJwk, kid: 'x' }] })
  )
  t.equal(only!.kid, 'x', 'RFC 7517, section 5: unknown members are ignored')
})

t.test('row 7: kid selects; without it every key of the type is tried', async (t) => {
  const keys = parseKeys(
    JSON.stringify({
      keys: [
        { ...rsaJwk, kid: 'a' },
        { ...rsaJwk, kid: 'b' },
        { kty: 'oct', k: 'c2VjcmV0' }
      ]
    })
  )
  const kids = (header: object) => keysFor(keys, header).map(({ kid }) => kid)
  t.same(kids({ alg: 'RS256', kid: 'b' }), ['b'])
  t.same(kids({ alg: 'RS256' }), ['a', 'b'])
  t.same(kids({ alg: 'RS256', kid: 'c' }), [])
  t.same(kids({ alg: 'HS256', kid: 'any' }), [undefined])
  t.same(kids({ alg: 'HS256', kid: 'a' }), [undefined])
  t.same(kids({ alg: 'none' }), [])
})
