import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { type Browser, chromium, type Page } from 'playwright-core'
import type { Owner } from './helper.js'

/** Starts Chromium. It is closed after the test. */
export async function launch(t: Owner): Promise<Browser> {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync'
    ]
  })
  t.teardown(() => browser.close())
  return browser
}

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** The part of axe-core that is used, in the page. */
interface Axe {
  run(
    context: unknown,
    options: object
  ): Promise<{ violations: { id: string; nodes: { html: string; failureSummary: string }[] }[] }>
}

/** What a page violates of WCAG 2.2, levels A and AA, as far as axe-core can tell. */
export async function violations(page: Page): Promise<string[]> {
  // A content security policy does not concern what the browser's protocol runs.
  await page.evaluate(axe)
  const { violations } = await page.evaluate(() => {
    const { axe, document } = globalThis as unknown as { axe: Axe; document: unknown }
    return axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] })
  })
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 200)} ${failureSummary}`)
  )
}
