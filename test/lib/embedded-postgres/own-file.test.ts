import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync, closeSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { appendToOwnFile, readOwnFile, writeOwnFile } from '../../../lib/embedded-postgres/own-file.js'

t.test('a file is read back by its owner, and by nobody else', async (t) => {
  const file = join(t.testdir(), 'secret')
  t.equal(readOwnFile(file), undefined)
  writeOwnFile(file, 'one')
  writeOwnFile(file, 'two')
  t.equal(readOwnFile(file), 'two')
  t.equal(statSync(file).mode & 0o777, 0o600)
  if (process.getuid?.() === 0) {
    chownSync(file, 65534, 65534)
    t.throws(() => readOwnFile(file), { message: /is not a file of this user/ })
    t.equal(readOwnFile(file, 65534), 'two')
  }
})

t.test('does not read or follow a file that another user may have created', async (t) => {
  const folder = t.testdir({ target: 'geheim' })
  const target = join(folder, 'target')
  const link = join(folder, 'link')
  symlinkSync(target, link)
  t.throws(() => readOwnFile(link), { message: /link is a symbolic link: remove it/ })
  t.throws(() => appendToOwnFile(link), { code: 'ELOOP' })
  chmodSync(target, 0o644)
  t.throws(() => readOwnFile(target), {
    message: /other users may access .*target: remove it, or run chmod 600/
  })
  execFileSync('mkfifo', [join(folder, 'pipe')])
  t.throws(() => readOwnFile(join(folder, 'pipe')), { message: /is not a file of this user/ })
  writeOwnFile(link, 'new')
  t.equal(readFileSync(target, 'utf8'), 'geheim')
  t.equal(readOwnFile(link), 'new')
  const log = appendToOwnFile(join(folder, 'log'))
  writeFileSync(log, 'line')
  closeSync(log)
  t.equal(readOwnFile(join(folder, 'log')), 'line')
})
