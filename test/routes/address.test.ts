import t from 'tap'
import { holdsToken, maskTokens } from '../../routes/handshake/address.js'

t.test('masks texts that look like tokens, and nothing else', async (t) => {
  for (const [url, masked] of [
    ['/a/eyJh.eyJz.sig', '/a/***'],
    ['/a/eyJh.eyJz.sig/b', '/a/***/b'],
    ['/eyJh.?token=eyJh.b%2Ec', '/***?token=***'],
    ['/a/xeyJh.b', '/a/x***'],
    ['/a/eyJh%2eeyJz%2Esig/b', '/a/***/b'],
    // Without a dot it is not a token. The next one can be.
    ['/eyJust/a/name', '/eyJust/a/name'],
    ['/eyJeyJ%eyJ.x', '/eyJeyJ%***']
  ] as const) {
    t.equal(maskTokens(url), masked)
    t.equal(holdsToken(url), masked !== url)
  }
})
