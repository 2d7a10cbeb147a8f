// What the page shows is what its address says: `#/view/name?key=value`. All of it stands in the fragment, which no
// browser sends to a server, so that texts reach no log.

/**
 * The view that the address names: `{view, name, params}`. `params` is a URLSearchParams: keys may repeat.
 */
export function read(hash = location.hash) {
  const [path, query = ''] = splitOnce(hash.replace(/^#\/?/, ''), '?')
  const [view, name = ''] = splitOnce(path, '/')
  return { view: view || 'search', name: decoded(name), params: new URLSearchParams(query) }
}

/**
 * The address of a view. `params`: an object of strings, numbers and lists of them; what is empty, null or undefined is
 * left out, so that an address says only what differs from the default.
 */
export function address(view, name = '', params = {}) {
  const query = new URLSearchParams()
  for (const [key, value] of Object.entries(params)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== '' && one !== false) query.append(key, one === true ? '1' : one)
    }
  }
  const path = `#/${view}${name === '' ? '' : '/' + encodeURIComponent(name)}`
  return query.size ? `${path}?${query}` : path
}

/**
 * How many of something an address asks for: a whole number from 1, and at most `most`. `unset` where the address says
 * nothing, and where it cannot be read, which is then added to `unread`.
 */
export function count(params, key, unread, { unset, most = null }) {
  const written = params.get(key)
  if (written === null) return unset
  const number = /^\d{1,7}$/.test(written) ? Number(written) : 0
  if (number >= 1 && (most === null || number <= most)) return number
  unread.push(`${key}=${written} (${most === null ? 'from 1' : `1 to ${most}`})`)
  return unset
}

/** Shows what an address says. `replace`: without a new entry in the browser's history. */
export function go(to, { replace = false } = {}) {
  if (to === location.hash) return window.dispatchEvent(new HashChangeEvent('hashchange'))
  if (!replace) return void (location.hash = to)
  history.replaceState(history.state, '', to)
  window.dispatchEvent(new HashChangeEvent('hashchange'))
}

/** Writes an address for what is shown already: nothing is shown anew. */
export function note(to) {
  history.replaceState(history.state, '', to)
  shows(to)
}

/** What stands on the page now is what this address says: told to whoever looks from outside, tests first. */
export function shows(hash) {
  if (hash === null) delete document.body.dataset.shows
  else document.body.dataset.shows = hash
}

function splitOnce(text, at) {
  const place = text.indexOf(at)
  return place < 0 ? [text] : [text.slice(0, place), text.slice(place + 1)]
}

function decoded(text) {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
