// A part of a view that loads by itself: one that fails, or takes long, does not take the others with it.

import { announce, el, fill } from '../dom.js'
import { problem, progress } from '../parts.js'

/** What is answered within this time is shown without telling that it is awaited, in milliseconds. */
const SOON = 150

/**
 * A section with a heading, controls that stay, and a body that is loaded.
 *
 * `load(key, work, {words, say})`: `work(signal)` resolves to what the body shows; `load` resolves when that stands
 * there, or why it does not. The same key again does nothing, unless the last time failed; another one ends what is
 * still under way. `words` tell what is awaited; `say`, if given, makes what is announced to those who do not see it.
 * `extend(work, failed)` fetches more into the body as it stands. `leave()` ends what is under way.
 */
export function section(title, { level = 2, className = '', controls = null } = {}) {
  const id = `section-${title.toLowerCase().replace(/[^a-z]+/g, '-')}`
  const heading = el(`h${level}`, { id, tabindex: '-1' }, title)
  const body = el('div', { class: 'section-body' })
  const element = el('section', { class: `section ${className}`, 'aria-labelledby': id }, heading, controls, body)
  let underWay = null
  let shown = null
  let running = null

  function load(key, work, options = {}) {
    if (shown === key) return running
    shown = key
    return (running = loaded(key, work, options))
  }

  async function loaded(key, work, { words = 'Asking …', say = null }) {
    underWay?.abort()
    const mine = (underWay = new AbortController())
    element.setAttribute('aria-busy', 'true')
    const later = setTimeout(() => fill(body, progress(words)), SOON)
    try {
      const found = await work(mine.signal)
      if (mine.signal.aborted) return
      fill(body, found)
      if (say) announce(say())
    } catch (error) {
      if (mine.signal.aborted) return
      shown = null
      fill(
        body,
        problem(error, () => load(key, work, { words, say })),
      )
    } finally {
      clearTimeout(later)
      if (underWay === mine) element.removeAttribute('aria-busy')
    }
  }

  async function extend(work, failed) {
    shown = null
    underWay?.abort()
    const mine = (underWay = new AbortController())
    element.setAttribute('aria-busy', 'true')
    try {
      await work(mine.signal)
    } catch (error) {
      if (!mine.signal.aborted) failed(error)
    } finally {
      if (underWay === mine) element.removeAttribute('aria-busy')
    }
  }

  return { element, heading, body, load, extend, leave: () => underWay?.abort() }
}
