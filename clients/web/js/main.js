// The page: it reads its address and shows the view that stands there.

import { address, read, shows } from './address.js'
import { callOnce, onExchanged, onTokenNeeded } from './api.js'
import { announce, el, fill } from './dom.js'
import { entry, visible, whole } from './format.js'
import { problem, progress } from './parts.js'
import * as scrolling from './scrolling.js'
import { askForToken } from './token_dialog.js'
import * as compare from './views/compare.js'
import * as explanations from './views/explanations.js'
import * as feature from './views/feature.js'
import * as match from './views/match.js'
import * as search from './views/search.js'
import * as sources from './views/sources.js'

// Each view is `show({name, params, main, signal})`, which fills `main`, and a `title`. `signal` ends when another view
// is shown: what is still awaited then is of no use.
const VIEWS = { search, feature, compare, match, explanations, sources }
const LINKS = [
  ['search', 'Search'],
  ['match', 'Match table'],
  ['compare', 'Compare'],
  ['explanations', 'Explanations'],
  ['sources', 'Served'],
]

/** Longer than this an empty page says that it is asking. */
const PATIENCE_MS = 300

let awaited = new AbortController()
let shown = null

async function show() {
  const { view, name, params } = read()
  awaited.abort()
  awaited = new AbortController()
  const { signal } = awaited
  shows(null)
  scrolling.leaving()
  const main = document.getElementById('main')
  const module = entry(VIEWS, view)
  // A text goes along from view to view.
  const text = params.get('text')
  fill(
    document.getElementById('views'),
    LINKS.map(([key, words]) =>
      el('a', { href: address(key, '', { text }), 'aria-current': key === view ? 'page' : null }, words),
    ),
  )
  if (!module) {
    document.title = 'Not a page – saeserve'
    fill(
      main,
      el('h1', {}, 'Not a page'),
      el('p', {}, 'There is nothing at this address. ', el('a', { href: '#/search' }, 'Search')),
    )
    shown = ''
    shows(location.hash)
    return
  }
  document.title = `${module.title(name, params)} – saeserve`
  const other = shown !== `${view}/${name}`
  if (other && shown !== null) {
    fill(main)
    main.focus({ preventScroll: true })
  }
  shown = `${view}/${name}`
  const wait = setTimeout(() => {
    if (!main.hasChildNodes()) fill(main, progress('Asking the server…'))
  }, PATIENCE_MS)
  try {
    await module.show({ name, params, main, signal })
    tell()
  } catch (error) {
    if (signal.aborted) return
    fill(main, el('h1', {}, module.title(name, params)), problem(error, show))
    announce(error.message)
  } finally {
    clearTimeout(wait)
    if (!signal.aborted) {
      scrolling.placed({ restore: other })
      shows(location.hash)
    }
  }
}

let told = false

// Which model is served; again with the next view where no server answered.
async function tell() {
  const where = document.getElementById('served')
  if (told) return
  try {
    const info = await callOnce('get-server-info')
    if (told) return
    fill(
      where,
      el('bdi', {}, visible(info.model.name)),
      ` · ${whole(info.featureCount)} features of ${info.sourceCount} sources · ${info.device}`,
    )
    told = true
  } catch {
    if (!told) fill(where, 'the server does not answer')
  }
}

// What the page knows of the server is that of the one before: the limits, the sources, what stands there.
function exchanged() {
  told = true
  fill(
    document.getElementById('served'),
    el(
      'span',
      { role: 'alert' },
      'The server was exchanged: what stands here may be of the one before. ',
      el('button', { type: 'button', onclick: () => location.reload() }, 'Reload'),
    ),
  )
}

// Not by its address, which would name another view.
function skip(event) {
  event.preventDefault()
  document.getElementById('main').focus()
}

// "/" goes to the view's first text, as it does elsewhere.
function shortcut(event) {
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey) return
  if (event.target.closest('input:not([type=checkbox], [type=radio]), textarea, select, dialog')) return
  const box = document.querySelector('main [data-focus="/"]') ?? document.querySelector('main textarea')
  if (!box) return
  event.preventDefault()
  box.focus()
  box.select()
}

onTokenNeeded(askForToken)
onExchanged(exchanged)
window.addEventListener('hashchange', show)
window.addEventListener('keydown', shortcut)
document.querySelector('.skip').addEventListener('click', skip)
show()
