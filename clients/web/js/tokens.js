// Tokens, shaded by how strongly a feature fires on each.

import { el } from './dom.js'
import { spaced, value, visible } from './format.js'

/** Tokens on each side of the peak that a short view shows. */
const AROUND = 16

/**
 * The tokens of a text in a row. `tokens` are the contract's; `activations` one number a token, or null.
 *
 * `peak`: value of the darkest shade (default: the largest of `activations`). `around`: show only so many tokens around
 * the row `around.row`. `chosen`: a Set of rows that are marked as chosen. `marked`: the row of the peak, told by more
 * than its shade. `onToken(row, event)`: tokens are buttons, and this is called for a click; a shift-click is for
 * several.
 */
export function shaded(
  tokens,
  activations,
  { peak = null, around = null, chosen = null, marked = null, onToken = null } = {},
) {
  const largest = peak ?? Math.max(0, ...(activations ?? []))
  const first = around === null ? 0 : Math.max(0, around.row - (around.tokens ?? AROUND))
  const last = around === null ? tokens.length : Math.min(tokens.length, around.row + (around.tokens ?? AROUND) + 1)
  const row = el('bdi', { class: 'tokens' })
  if (first > 0) row.append(el('span', { class: 'quiet' }, '…'))
  for (let place = first; place < last; place++) {
    const made = token(tokens[place], place, activations?.[place], largest, chosen?.has(place) ?? false, onToken)
    if (place === marked) made.classList.add('peak')
    row.append(made)
  }
  if (last < tokens.length) row.append(el('span', { class: 'quiet' }, '…'))
  return row
}

function token(one, place, activation, largest, chosen, onToken) {
  const display = one.display ?? ''
  const words = activation === undefined ? spaced(display) : `${spaced(display)}  ${value(activation)}`
  const made =
    onToken === null
      ? el('span', { class: 'token', title: words })
      : el('button', {
          class: 'token',
          type: 'button',
          title: words,
          'aria-pressed': String(chosen),
          'data-row': place,
          'aria-label': `token ${place}: ${spaced(display)}`,
          onclick: (event) => onToken(place, event),
        })
  // A token that is a word of its own keeps its space: the line may be broken there.
  made.textContent = visible(display) || '∅'
  if (chosen) made.classList.add('chosen')
  if (activation > 0 && largest > 0) {
    made.classList.add('on')
    made.style.setProperty('--on', Math.min(1, activation / largest).toFixed(3))
  } else if (activation < 0) {
    made.classList.add('negative')
  }
  return made
}
