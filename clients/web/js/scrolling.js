// Where somebody had scrolled to: kept for each entry of the browser's history, as it is for a page that is loaded.

import { keep, kept } from './storage.js'

const KEPT = 'saeserve-scrolled'
const places = new Map(JSON.parse(kept(KEPT) ?? '[]'))
let entries = 0
let resting = false

history.scrollRestoration = 'manual'

const entry = () => history.state?.entry ?? null

/** Another address is about to be shown: what moves until `placed` is not somebody's scrolling. */
export function leaving() {
  resting = false
  if (entry() === null) history.replaceState({ ...history.state, entry: `${Date.now()}-${entries++}` }, '')
}

/** It is shown. `restore`: another view, which goes to where it was left, or to the top if it is new. */
export function placed({ restore }) {
  if (restore) window.scrollTo(0, places.get(entry()) ?? 0)
  resting = true
}

window.addEventListener(
  'scroll',
  () => {
    if (resting) places.set(entry(), window.scrollY)
  },
  { passive: true },
)

// For a reload, and for who comes back from another site. The last will do.
window.addEventListener('pagehide', () => keep(KEPT, JSON.stringify([...places].slice(-50))))
