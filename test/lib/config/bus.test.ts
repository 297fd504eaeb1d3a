import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { type PgWebsocketsOptions, resolveOptions } from '../../../lib/config/index.js'
import { root } from '../../support/root.js'

const resolve = (options: Partial<PgWebsocketsOptions>) =>
  resolveOptions({ dbUri: 'postgresql://', jwtSecret: 'reallyreallyreallyreallyverysafe', ...options })
const certificate = join(root, 'test/fixtures/certificate.pem')

t.test('servers get a scheme and a port', async (t) => {
  const cases: [PgWebsocketsOptions['bus'], string[]][] = [
    ['nats://localhost', ['nats://localhost:4222']],
    ['127.0.0.1, nats://[::1]:5000', ['nats://127.0.0.1:4222', 'nats://[::1]:5000']],
    ['tls://a.example.org,b.example.org:5222', ['tls://a.example.org:4222', 'tls://b.example.org:5222']],
    [['tls://10.0.0.1/'], ['tls://10.0.0.1:4222']]
  ]
  for (const [bus, expected] of cases) t.same(resolve({ bus }).bus, expected)
  t.match(resolve({}), { bus: undefined, notifySql: true, busInsecure: false })
  t.same(resolve({ bus: 'nats://nats.internal', busInsecure: true }).bus, ['nats://nats.internal:4222'])
})

t.test('a wrong value is an error that names the variable, and does not repeat secrets', async (t) => {
  const folder = t.testdir({ empty: '', creds: 'secret-token\n', key: 'no certificate' })
  const cases: [Partial<PgWebsocketsOptions>, RegExp][] = [
    [{ bus: 'nats://10.0.0.1' }, /PGWS_BUS\) leads to the host "10\.0\.0\.1" without TLS.*PGWS_BUS_INSECURE/],
    [{ bus: 'localhost,nats://nats.internal' }, /PGWS_BUS\) leads to the host "nats\.internal"/],
    [{ bus: 'nats://127.0.0.1.example.org' }, /without TLS/],
    [{ bus: 'http://localhost' }, /PGWS_BUS\) must be a list of servers of NATS/],
    [{ bus: 'wss://localhost' }, /PGWS_BUS\) must be a list of servers of NATS/],
    [{ bus: 'nats://' }, /PGWS_BUS\) must be a list of servers of NATS/],
    [{ bus: 'nats://localhost:99999' }, /PGWS_BUS\) must be a list of servers of NATS/],
    [{ bus: ' , ' }, /PGWS_BUS\) must name a server/],
    [
      { bus: 'nats://user:secret@localhost' },
      /PGWS_BUS\) must not contain a user or password.*PGWS_BUS_CRED/
    ],
    [{ bus: 'nats://localhost/secret' }, /PGWS_BUS\) must be a list of servers without paths/],
    [{ bus: 'nats://localhost,tls://localhost' }, /PGWS_BUS\) mixes/],
    [{ bus: 'localhost', busCredentials: `@${folder}/none` }, /PGWS_BUS_CREDENTIALS\) names a file.*ENOENT/],
    [
      { bus: 'localhost', busCredentials: `@${folder}/empty` },
      /PGWS_BUS_CREDENTIALS\) names a file that is empty/
    ],
    [{ bus: 'localhost', busCredentials: `${folder}/creds` }, /PGWS_BUS_CREDENTIALS\).*write @/],
    [{ bus: 'localhost', busCa: `@${certificate}` }, /PGWS_BUS_CA\) has no effect without TLS/],
    [{ bus: 'tls://localhost', busCa: `@${folder}/key` }, /PGWS_BUS_CA\) must be certificates/],
    [{ bus: 'tls://localhost', busCa: `@${folder}/none` }, /PGWS_BUS_CA\) names a file.*ENOENT/],
    [{ bus: 'localhost', busPrefix: 'a..b' }, /PGWS_BUS_PREFIX\) must be a subject/],
    [{ bus: 'localhost', busPrefix: 'a.>' }, /PGWS_BUS_PREFIX\) must be a subject/],
    [{ busCredentials: 'secret' }, /PGWS_BUS_CREDENTIALS\) has no effect without bus/],
    [{ busCa: `@${certificate}` }, /PGWS_BUS_CA\) has no effect without bus/],
    [{ busPrefix: 'a' }, /PGWS_BUS_PREFIX\) has no effect without bus/]
  ]
  for (const [options, expected] of cases) {
    t.throws(() => resolve(options), { code: 'FST_PGWS_INVALID_OPTION', message: expected })
    t.throws(() => resolve(options), { message: /^(?!.*secret)/ })
  }
})

t.test('credentials and certificates are read from files', async (t) => {
  const folder = t.testdir()
  writeFileSync(join(folder, 'creds'), 'user:password\n')
  const { busCredentials, busCa } = resolve({
    bus: 'tls://localhost',
    busCredentials: `@${folder}/creds`,
    busCa: `@${certificate}`
  })
  t.equal(busCredentials, 'user:password')
  t.match(busCa, /^-----BEGIN CERTIFICATE-----/)
})
