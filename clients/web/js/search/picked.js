// The features that were chosen to compare, at the foot of the page.

import { address } from '../address.js'
import { el, fill } from '../dom.js'
import { visible } from '../format.js'

/** The bar: `{root, show(state)}`. `choose(names)`: others are chosen. */
export function pickedBar(choose) {
  const root = el('div', { class: 'picked', hidden: true, role: 'region', 'aria-label': 'Chosen to compare' })

  function show({ pick, text }) {
    root.hidden = pick.length === 0
    if (root.hidden) return
    const [a, b] = pick
    fill(
      root,
      pick.map((name) => el('span', { class: 'feature' }, visible(name.toUpperCase()))),
      b
        ? el('a', { class: 'button primary', href: address('compare', '', { a, b, text }) }, 'Compare them')
        : el('span', { class: 'quiet' }, 'Choose another to compare.'),
      el('button', { type: 'button', class: 'link', onclick: () => choose([]) }, 'clear'),
    )
  }

  return { root, show }
}
