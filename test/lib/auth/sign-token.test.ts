import { createVerifier } from 'fast-jwt'
import t from 'tap'
import { parseKeys } from '../../../lib/auth/keys.js'
import { signingKeyOf, signToken } from '../../../lib/auth/sign-token.js'

t.test('signs a token with the algorithm of its key', async (t) => {
  const secret = Buffer.from('a secret of at least sixty-four bytes, as HS512 wants it, for tests only')
  for (const algorithm of ['HS256', 'HS384', 'HS512'] as const) {
    const jwk = { kty: 'oct', alg: algorithm, k: secret.toString('base64url') }
    const key = signingKeyOf(parseKeys(JSON.stringify({ keys: [jwk] })))!
    const verify = createVerifier({ key: secret, algorithms: [algorithm] })
    t.same(verify(signToken({ mode: 'r' }, key)), { mode: 'r' })
  }
  const text = signingKeyOf(parseKeys(secret.toString()))!
  t.same(createVerifier({ key: secret, algorithms: ['HS256'] })(signToken({}, text)), {})
})

t.test('cannot sign with a public key', async (t) => {
  const jwk = { kty: 'OKP', crv: 'Ed25519', x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo' }
  t.equal(signingKeyOf(parseKeys(JSON.stringify({ keys: [jwk] }))), undefined)
})
