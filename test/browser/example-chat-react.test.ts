import { chromium } from 'playwright-core'
import t from 'tap'
import { startExample } from '../support/example.js'

t.test('the example "chat-react": two users see each other, their messages, and the history', async (t) => {
  const example = await startExample(t, 'chat-react')
  const [address] = example.addresses()
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking']
  })
  t.teardown(() => browser.close())
  const errors: string[] = []
  const join = async (name: string) => {
    const page = await browser.newPage()
    page.on('pageerror', (error) => errors.push(error.message))
    await page.goto(address!)
    await page.getByLabel('Your name').fill(name)
    await page.getByRole('button', { name: 'Join' }).click()
    await page.getByText('subscribed, with').waitFor()
    return page
  }
  const alice = await join('alice')
  const bob = await join('bob')
  for (const page of [alice, bob]) await page.getByText('subscribed, with alice, bob').waitFor()
  await alice.getByLabel('Message').fill('<b>hello</b>')
  await alice.getByRole('button', { name: 'Send' }).click()
  for (const page of [alice, bob]) await page.getByText('alice <b>hello</b>').waitFor()

  const carol = await join('carol')
  await carol.getByText('alice <b>hello</b>').waitFor()
  await bob.close()
  await carol.getByText('subscribed, with alice, carol').waitFor()
  t.equal(await alice.getByRole('listitem').count(), 1)
  t.same(errors, [])
  await browser.close()
  await example.stop()
})
