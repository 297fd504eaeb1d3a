import { generateKeyPairSync } from 'node:crypto'
import t from 'tap'
import { keysFor, parseKeys } from '../../lib/keys.js'

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
  for (const secret of ['plain', '{"looks":"like JSON"}', '{broken', '5', '"x"']) {
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

t.test('a key that is of no use is refused, without being repeated', async (t) => {
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
  t.equal(only!.kid, 'x', 'RFC 7517, section 5: what is not understood is passed over')
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
