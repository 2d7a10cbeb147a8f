// To come.

import { el, fill } from '../dom.js'

export function title(name) {
  return name || 'compare'
}

export async function show({ name, main }) {
  fill(main, el('h1', {}, title(name)))
}
