import { $, element } from './dom.js'
import { base, claimsOf } from './token.js'

/** What this server has beside the sample pages, which may be served by any server. */
let others

async function findOthers() {
  const about = await fetch(base + 'dashboard/about.json').catch(() => undefined)
  if (about?.ok) {
    const { links } = await about.json()
    return { dashboard: true, documentation: links.some(({ href }) => href === 'documentation') }
  }
  const documentation = await fetch(base + 'documentation/json', { method: 'HEAD' }).catch(() => undefined)
  return { dashboard: false, documentation: documentation?.ok }
}

/**
 * Shows links to the other pages, with the parameters of this one.
 * @param here the address of this page
 */
export async function showLinks(here, parameters) {
  const token = parameters.get('token') ?? ''
  const fragment = token === '' ? '' : '#' + parameters
  const links = [['./', 'Room', fragment], ['table.html', 'Live table', fragment]]
  const show = () => {
    $('links').replaceChildren(...links.map(([path, text, rest]) => {
      const link = element('a', '', text)
      link.href = path + rest
      if (path === here) link.setAttribute('aria-current', 'page')
      return link
    }))
  }
  show()
  const { dashboard, documentation } = await (others ??= findOthers())
  const admin = claimsOf(token).admin === true ? '#' + new URLSearchParams({ token }) : ''
  if (dashboard) links.push(['dashboard', 'Dashboard', admin])
  if (documentation) links.push(['documentation', 'API documentation', ''])
  show()
}
