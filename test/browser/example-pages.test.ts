import { chromium } from 'playwright-core'
import t from 'tap'
import { startExample } from '../support/example.js'

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking']
})
t.teardown(() => browser.close())

/** A page for a separate user. */
const newPage = async (address: string) => {
  const context = await browser.newContext()
  const page = await context.newPage()
  await page.goto(address)
  return page
}

t.test('the page of "sessions"', async (t) => {
  const example = await startExample(t, 'sessions')
  const [address] = example.addresses()
  const login = async (name: string, password: string) => {
    const page = await newPage(address!)
    await page.getByPlaceholder('Name').fill(name)
    await page.getByPlaceholder('Password').fill(password)
    await page.getByRole('button', { name: 'Log in' }).click()
    return page
  }
  await (await login('alice', 'guess')).getByText('The name or the password is wrong.').waitFor()
  const alice = await login('alice', 'alice-demo')
  const bob = await login('bob', 'bob-demo')
  await bob.getByText('You are bob.').waitFor()
  t.same(await bob.getByLabel('Room').locator('option').allTextContents(), ['lobby'])
  // A user who appears in the list has subscribed.
  for (const [page, name] of [
    [alice, 'alice'],
    [bob, 'bob']
  ] as const) {
    await page.getByLabel('Room').selectOption('lobby')
    await page.getByLabel('Message').fill('<b>hello</b>')
    await page.getByRole('button', { name: 'Send' }).click()
    await page.getByText(`lobby · ${name}: <b>hello</b>`).waitFor()
  }
  await alice.getByText('lobby · bob: <b>hello</b>').waitFor()
  await alice.getByRole('button', { name: 'Log out' }).click()
  await alice.getByRole('button', { name: 'Log in' }).waitFor()
  for (const context of browser.contexts()) await context.close()
  await example.stop()
})

t.test('the page of "orders"', async (t) => {
  const example = await startExample(t, 'orders')
  const [address] = example.addresses()
  const [first, second] = [await newPage(address!), await newPage(address!)]
  await first.getByLabel('Item').fill('<b>tea</b>')
  await first.getByRole('button', { name: 'Order' }).click()
  for (const page of [first, second]) await page.getByRole('cell', { name: '<b>tea</b>' }).waitFor()
  await first.getByRole('combobox').selectOption('paid')
  await second
    .locator('select')
    .filter({ has: second.locator('option:checked', { hasText: 'paid' }) })
    .waitFor()
  await (await newPage(address!)).getByRole('cell', { name: '<b>tea</b>' }).waitFor()
  for (const context of browser.contexts()) await context.close()
  await example.stop()
})
