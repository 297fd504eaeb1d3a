import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import type { Test } from 'tap'
import { launch } from './browser.js'
import { query, token, until } from './helper.js'
import { root } from './root.js'

const CLI = join(root, 'dist/cli.js')
/** One secret over all starts, as an application would have. */
const SECRET = 'a secret of the browser tests only'

export type Language = 'sdk' | 'websocket' | 'sse'
export const LANGUAGES: Language[] = ['sdk', 'websocket', 'sse']

/** A token that the room's server accepts. */
export const roomToken = (claims: object) => token(claims, SECRET)

export interface Wanted {
  channel?: string
  language?: Language
  /** In place of one of an administrator called Ann. */
  token?: string
  /** In place of the server's. */
  port?: number
  /** Windows of one context are of one person in one browser. Default: a context of its own. */
  context?: BrowserContext
}

/** The server with its embedded database and the sample pages, and a browser. */
export class Room {
  readonly browser: Browser
  readonly port: number
  /** What went wrong in the scripts of the pages. */
  readonly errors: string[] = []
  /** The addresses that the server has printed. */
  address = ''
  dbUri = ''
  readonly #folder: string
  readonly #environment: Record<string, string>
  #child: ChildProcess | undefined

  private constructor(browser: Browser, port: number, environment: Record<string, string>) {
    this.browser = browser
    this.port = port
    this.#folder = mkdtempSync(join(tmpdir(), 'pgws-page-'))
    this.#environment = {
      PATH: process.env.PATH!,
      HOME: this.#folder,
      PGWS_EMBEDDED_FOLDER: join(this.#folder, 'data'),
      PGWS_PORT: String(port),
      PGWS_JWT_SECRET: SECRET,
      ...environment
    }
  }

  /** Starts the server. It ends with the test, and so does the browser. */
  static async start(t: Test, environment: Record<string, string> = {}): Promise<Room> {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    server.close()
    const room = new Room(await launch(t), port, environment)
    t.teardown(async () => {
      await room.stop()
      rmSync(room.#folder, { recursive: true, force: true })
    })
    await room.serve()
    // Each test has a channel of its own, because a window shows what was sent before it was opened.
    await query(room.dbUri, `select pgws.retain('kept:*', '1 day')`)
    return room
  }

  get tableAddress(): string {
    return new URL(`/table.html${new URL(this.address).hash}`, this.address).href
  }

  /** Starts the server, again if it was stopped. */
  async serve(): Promise<void> {
    const child = spawn(process.execPath, [CLI], { cwd: this.#folder, env: this.#environment })
    this.#child = child
    let output = ''
    child.stdout.on('data', (chunk) => (output += chunk))
    child.stderr.on('data', (chunk) => (output += chunk))
    await until(() => /psql '/.test(output) || child.exitCode !== null, 30_000)
    const address = /http:\/\/localhost:\d+\/#\S+/.exec(output)?.[0]
    const dbUri = /psql '([^']+)'/.exec(output)?.[1]
    if (address === undefined || dbUri === undefined) throw new Error(output)
    Object.assign(this, { address, dbUri })
  }

  async stop(): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (child === undefined || child.exitCode !== null) return
    child.kill('SIGTERM')
    await once(child, 'exit')
  }

  /** Runs SQL with the command that the page shows. */
  sql(text: string): Promise<unknown> {
    return promisify(execFile)(process.execPath, [CLI, 'sql', text], {
      cwd: this.#folder,
      env: this.#environment
    })
  }

  /** A page, closed with the test. Its script errors are collected. */
  async page(t: Test, context?: BrowserContext): Promise<Page> {
    const own = context ?? (await this.browser.newContext())
    const page = await own.newPage()
    t.teardown(() => (context === undefined ? own.close() : page.close()))
    page.on('pageerror', (error) => this.errors.push(error.message))
    return page
  }

  /** The address of a room. */
  url(wanted: Wanted = {}): string {
    const url = new URL(this.address)
    if (wanted.port !== undefined) url.port = String(wanted.port)
    const fragment = new URLSearchParams(url.hash.slice(1))
    fragment.set('channel', wanted.channel ?? 'chat')
    fragment.set('transport', wanted.language ?? 'sdk')
    fragment.set('token', wanted.token ?? roomToken({ mode: 'rw', admin: true, sub: 'Ann' }))
    url.hash = fragment.toString()
    return url.href
  }

  /** A window on a room, connected. */
  async window(t: Test, wanted: Wanted = {}): Promise<Page> {
    const page = await this.page(t, wanted.context)
    await page.goto(this.url(wanted))
    await connected(page)
    return page
  }

  /** A request to the control plane, as an administrator. */
  async ask(path: string, method = 'GET'): Promise<unknown> {
    const headers = { authorization: `Bearer ${roomToken({ mode: 'rw', admin: true })}` }
    const response = await fetch(new URL(path, this.address), { method, headers })
    return response.json()
  }
}

export const connected = (page: Page) => page.locator('#state.connected').waitFor({ timeout: 30_000 })
export const stateOf = (page: Page) => page.locator('#state').innerText()
export const shown = (page: Page, text: string) =>
  page.locator('#messages .payload').getByText(text, { exact: true }).first().waitFor({ timeout: 30_000 })
export const payloads = (page: Page) => page.locator('#messages .payload').allTextContents()

export async function send(page: Page, text: string): Promise<void> {
  await page.fill('#message', text)
  await page.press('#message', 'Enter')
}
