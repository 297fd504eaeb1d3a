import type { Page } from 'playwright-core'
import t from 'tap'
import { violations } from '../support/browser.js'
import { connected, Room, roomToken, send, shown } from '../support/room.js'

const room = await Room.start(t)

/** Whether an element is completely in the first screen of its window. */
const inFirstScreen = (page: Page, selector: string) =>
  page.locator(selector).evaluate((element) => {
    const { top, bottom, left, right } = element.getBoundingClientRect()
    const { innerHeight, innerWidth } = element.ownerDocument.defaultView!
    return top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth
  })

t.test('the pages pass the rules of axe-core, and fit, from 390 to 1920 pixels', async (t) => {
  for (const colorScheme of ['light', 'dark'] as const) {
    for (const width of [390, 768, 1280, 1920]) {
      const context = await room.browser.newContext({ viewport: { width, height: 844 }, colorScheme })
      t.teardown(() => context.close())
      const page = await room.window(t, { context, language: 'sse' })
      await send(page, `at ${width} pixels, ${colorScheme}`)
      await shown(page, `at ${width} pixels, ${colorScheme}`)
      await page.locator('nav a').nth(3).waitFor()
      for (const address of [undefined, room.address, room.tableAddress]) {
        if (address) {
          // Only the fragment can differ.
          await page.goto('about:blank')
          await page.goto(address)
          await connected(page)
          await page.locator('nav a').nth(3).waitFor()
        }
        t.same(await violations(page), [], `${width} ${colorScheme} ${address}`)
        const wide = await page.locator('html').evaluate((html) => html.scrollWidth - html.clientWidth)
        t.equal(wide, 0, `${width} ${address}`)
      }
    }
  }
})

t.test('inputs have borders with a contrast of three to one (WCAG 1.4.11)', async (t) => {
  for (const colorScheme of ['light', 'dark'] as const) {
    const context = await room.browser.newContext({ colorScheme })
    t.teardown(() => context.close())
    const page = await room.window(t, { context })
    for (const input of await page.locator('input:visible:not([type=radio]), textarea:visible').all()) {
      const contrasts = await input.evaluate((element) => {
        const luminance = (color: string) =>
          color
            .match(/\d+/g)!
            .slice(0, 3)
            .map((part) => Number(part) / 255)
            .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
            .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i]!, 0)
        const window = element.ownerDocument.defaultView!
        const own = window.getComputedStyle(element)
        const around = window.getComputedStyle(element.closest('section')!)
        return [own.backgroundColor, around.backgroundColor].map((color) => {
          const [low, high] = [luminance(own.borderTopColor), luminance(color)].sort((a, b) => a - b)
          return (high! + 0.05) / (low! + 0.05)
        })
      })
      for (const contrast of contrasts) t.ok(contrast >= 3, `${contrast}`)
    }
  }
})

t.test('on a phone, the first screen has what is needed, and no hint about keys', async (t) => {
  const context = await room.browser.newContext({
    viewport: { width: 390, height: 844 },
    hasTouch: true,
    isMobile: true
  })
  t.teardown(() => context.close())
  const page = await room.window(t, { context })
  await send(page, 'from a phone')
  await shown(page, 'from a phone')
  for (const selector of ['#state', '.log >> nth=0', '#message', '#send', '#language-sse']) {
    t.equal(await inFirstScreen(page, selector), true, selector)
  }
  t.equal(await page.locator('#key-hint').isVisible(), false)
  const desk = await room.window(t)
  t.equal(await desk.locator('#key-hint').isVisible(), true)
  for (const each of [page, desk]) {
    const lines = await each
      .locator('#messages li')
      .last()
      .evaluate((item) => [...item.children].map((child) => child.getBoundingClientRect()))
    const [first] = lines
    for (const { top, bottom } of lines) t.ok(top < first!.bottom && bottom > first!.top, 'in one line')
  }
})

t.test('different buttons have different names, and the keyboard reaches all', async (t) => {
  const page = await room.window(t, { token: roomToken({ mode: 'rw', admin: true, sub: 'Ann' }) })
  const names = await page
    .locator('button:visible')
    .evaluateAll((buttons) =>
      buttons.map((button) => button.getAttribute('aria-label') ?? button.textContent)
    )
  t.equal(new Set(names).size, names.length, names.join(', '))
  const reached = new Set<string | null>()
  await page.locator('nav a').first().focus()
  for (let i = 0; i < 40; i++) {
    reached.add(
      await page.locator(':focus').evaluateAll(([focused]) => focused?.id || (focused?.textContent ?? null))
    )
    await page.keyboard.press('Tab')
  }
  for (const id of ['message', 'rename', 'channel', 'token', 'meta', 'join', 'leave'])
    t.ok(reached.has(id), id)
})

t.test('there was no script error', async (t) => {
  t.same(room.errors, [])
})
