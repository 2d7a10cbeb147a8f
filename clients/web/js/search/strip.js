// The text's tokens as buttons: one sorts by it, several by their sum.

import { el, fill } from '../dom.js'
import { entry, spaced } from '../format.js'
import { shaded } from '../tokens.js'

/**
 * The strip: `{root, show(tokens, rows, {byToken}), hide()}`. `choose(rows)` is called with the rows to sort
 * by. The whole strip is one stop of the Tab key: arrows, Home and End move in it.
 */
export function tokenStrip(choose) {
  const several = el('input', { type: 'checkbox', id: 'several' })
  const said = el('span', { class: 'strip-said', id: 'strip-said' })
  const unsort = el(
    'button',
    {
      class: 'link',
      type: 'button',
      hidden: true,
      onclick: () => {
        choose([])
        focusOn(at)
      },
    },
    'unsort',
  )
  const tokens = el('div', {
    role: 'toolbar',
    'aria-label': 'Tokens of the text',
    'aria-describedby': 'strip-said',
    onkeydown: moved,
    class: 'strip-tokens',
  })
  const root = el(
    'section',
    { class: 'strip', 'aria-label': 'Sort by a token', hidden: true },
    el(
      'div',
      { class: 'strip-head' },
      said,
      unsort,
      el(
        'label',
        { class: 'check', title: 'A click adds a token instead of choosing it alone; so does Shift with a click' },
        several,
        ' several',
      ),
    ),
    tokens,
  )
  let shown = null // the tokens for which buttons stand there
  let chosen = new Set()
  let at = 0 // the token that the Tab key reaches

  function toggle(row, event) {
    const add = event.shiftKey || several.checked
    const next = new Set(add ? chosen : [])
    if (chosen.has(row) && (add || chosen.size === 1)) next.delete(row)
    else next.add(row)
    at = row
    choose([...next].sort((a, b) => a - b))
  }

  function buttons() {
    return [...tokens.querySelectorAll('button')]
  }

  function focusOn(row) {
    const all = buttons()
    at = Math.max(0, Math.min(all.length - 1, row))
    all.forEach((button, place) => button.setAttribute('tabindex', place === at ? '0' : '-1'))
    all[at]?.focus()
  }

  function moved(event) {
    const last = buttons().length - 1
    const to = entry({ ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }, event.key)
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return
    event.preventDefault()
    focusOn(to)
  }

  function draw(all) {
    const row = shaded(all, null, { onToken: toggle })
    // A line of the text is a line here.
    for (const button of row.querySelectorAll('button')) {
      if (breaks(all[Number(button.dataset.row)])) button.after(el('br'))
      button.addEventListener('focus', () => {
        at = Number(button.dataset.row)
      })
    }
    fill(tokens, row)
    at = 0
  }

  function show(all, rows, { byToken }) {
    const same = JSON.stringify(all)
    if (same !== shown) draw(all)
    shown = same
    chosen = new Set(rows)
    buttons().forEach((button, row) => {
      button.classList.toggle('chosen', chosen.has(row))
      button.setAttribute('aria-pressed', String(chosen.has(row)))
      button.setAttribute('tabindex', row === Math.min(at, all.length - 1) ? '0' : '-1')
    })
    const names = rows
      .filter((row) => row < all.length)
      .map((row) => el('bdi', { class: 'chip' }, spaced(all[row].display ?? '')))
    const begin = byToken ? 'Only of ' : rows.length > 1 ? 'Sorted by the sum over ' : 'Sorted by '
    fill(
      said,
      rows.length
        ? [begin, names]
        : `Click a token to ${byToken ? 'see it alone' : 'sort by it'}; with Shift, several.`,
    )
    fill(unsort, byToken ? 'show all' : 'unsort')
    unsort.hidden = rows.length === 0
    root.hidden = false
  }

  return {
    root,
    show,
    hide: () => {
      root.hidden = true
    },
  }
}

// Pieces are bytes in base64: a line break is byte 10.
function breaks(token) {
  return /\\n$/.test(token?.display ?? '') && atob(token.piece).endsWith('\n')
}
