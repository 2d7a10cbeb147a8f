// The page: it reads its address and shows the view that stands there.

import { read } from './address.js'
import { callOnce, onTokenNeeded } from './api.js'
import { announce, el, fill } from './dom.js'
import { whole } from './format.js'
import { problem } from './parts.js'
import { askForToken } from './token_dialog.js'
import * as compare from './views/compare.js'
import * as feature from './views/feature.js'
import * as match from './views/match.js'
import * as search from './views/search.js'

// Each view is `show({name, params, main, signal})`, which fills `main`, and a `title`. `signal` ends when another view is
// shown: what is still awaited then is of no use.
const VIEWS = { search, feature, compare, match }
const LINKS = [['search', 'Search'], ['match', 'Match table'], ['compare', 'Compare']]

let leaving = new AbortController()
let shown = null

async function show() {
  const { view, name, params } = read()
  leaving.abort()
  leaving = new AbortController()
  const { signal } = leaving
  const main = document.getElementById('main')
  const module = VIEWS[view]
  fill(document.getElementById('views'), LINKS.map(([key, words]) =>
    el('a', { href: `#/${key}`, 'aria-current': key === view ? 'page' : null }, words)))
  if (!module) {
    fill(main, el('h1', {}, 'Not a page'), el('p', {}, 'There is nothing at this address. ', el('a', { href: '#/search' }, 'Search')))
    return
  }
  document.title = `${module.title(name, params)} – saeserve`
  if (shown !== `${view}/${name}`) {
    if (shown !== null) main.focus({ preventScroll: true })
    window.scrollTo(0, 0)
  }
  shown = `${view}/${name}`
  try {
    await module.show({ name, params, main, signal })
  } catch (error) {
    if (signal.aborted) return
    fill(main, problem(error, show))
    announce(error.message)
  }
}

async function tell() {
  const where = document.getElementById('served')
  try {
    const info = await callOnce('get-server-info')
    fill(where, `${info.model.name} · ${whole(info.featureCount)} features of ${info.sourceCount} sources · ${info.device}`)
  } catch {
    fill(where, 'the server does not answer')
  }
}

onTokenNeeded(askForToken)
window.addEventListener('hashchange', show)
show()
tell()
