// The view of the page is in the fragment of its address: #/channels, #/channel?name=chat, #/connections?subject=ann.

/** The view and the parameters of the address. */
export function readRoute() {
  const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split(/\?(.*)/s)
  return { view: path, parameters: new URLSearchParams(query) }
}

/** The address of a view. Empty parameters are left out. */
export function addressOf(view, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined && value !== ''))
  return '#/' + view + (query.size > 0 ? '?' + query : '')
}

/** Writes the parameters of a view into the address, for a reload or a colleague, without another entry of the history. */
export function remember(view, parameters) {
  history.replaceState(null, '', addressOf(view, parameters))
}
