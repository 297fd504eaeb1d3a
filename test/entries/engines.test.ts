import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { subset } from 'semver'
import t from 'tap'
import { root } from '../support/root.js'

interface Package {
  version?: string
  dev?: boolean
  engines?: { node?: string }
}

t.test('each dependency supports every Node.js version that the package supports', (t) => {
  const read = (file: string) => JSON.parse(readFileSync(join(root, file), 'utf8'))
  const { engines } = read('package.json') as { engines: { node: string } }
  const packages = Object.entries<Package>(read('package-lock.json').packages)
  const installed = packages.filter(([path, { dev }]) => path !== '' && dev !== true)
  t.ok(installed.length > 50, 'the lock file was read')
  for (const [path, { version, engines: theirs }] of installed) {
    const accepted = theirs?.node ?? '*'
    t.ok(subset(engines.node, accepted), `${path} ${version} takes ${engines.node}`, { accepted })
  }
  t.end()
})
