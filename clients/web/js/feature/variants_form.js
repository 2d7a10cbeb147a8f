// Boxes for several variants of a text, and what is done with them.

import { announce, el, fill } from '../dom.js'

/**
 * A form of text areas "Variant 1", "Variant 2", …, or of another `noun`. `onEncode(texts)` is called with those that
 * are not empty. `most()` tells how many texts one call takes. `before` stands above the boxes; `none`: it may be done
 * without a text.
 *
 * `set(texts)` is told the texts of each address: those of the one before leave what was typed since, unless that was
 * done with (`onEncode`) or given up (`giveUp()`). `edit(place)` puts the cursor there.
 */
export function variantsForm({
  onEncode,
  most,
  hint = '',
  before = null,
  action = 'Encode',
  none = false,
  noun = 'variant',
}) {
  const named = noun[0].toUpperCase() + noun.slice(1)
  const boxes = el('div', { class: 'variants' })
  const add = el('button', { type: 'button', onclick: () => more() }, `Add a ${noun}`)
  const form = el(
    'form',
    {
      class: 'variants-form',
      onsubmit: (event) => {
        event.preventDefault()
        const texts = areas()
          .map((area) => area.value)
          .filter((text) => text !== '')
        if (texts.length || none) {
          giveUp()
          return onEncode(texts)
        }
        announce('Type a text first')
        areas()[0].focus()
      },
    },
    before,
    boxes,
    el(
      'div',
      { class: 'actions' },
      el('button', { class: 'primary' }, action),
      add,
      el('span', { class: 'quiet hint' }, hint),
    ),
  )

  const areas = () => [...boxes.querySelectorAll('textarea')]

  function box(text) {
    const area = el('textarea', {
      rows: '2',
      spellcheck: 'false',
      autocomplete: 'off',
      dir: 'auto',
      onkeydown: (event) => {
        if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit()
      },
    })
    area.value = text
    const remove = el('button', { type: 'button', class: 'small', onclick: () => drop(area) }, 'Remove')
    return el('div', { class: 'variant' }, el('label', {}), area, remove)
  }

  function number() {
    const all = [...boxes.children]
    all.forEach((one, place) => {
      const [label, area, remove] = one.children
      fill(label, `${named} ${place + 1}`)
      area.id = `variant-${place + 1}`
      label.htmlFor = area.id
      remove.setAttribute('aria-label', `Remove ${noun} ${place + 1}`)
      remove.hidden = all.length === 1
    })
    add.disabled = all.length >= most()
  }

  function more() {
    boxes.append(box(areas().at(-1).value))
    number()
    edit(areas().length - 1)
    announce(`${named} ${areas().length}, a copy of the one before`)
  }

  function drop(area) {
    const place = areas().indexOf(area)
    area.parentElement.remove()
    number()
    announce(`${named} ${place + 1} removed`)
    edit(Math.min(place, areas().length - 1))
  }

  let told = null // by the address

  function giveUp() {
    told = null
  }

  function set(texts) {
    if (told === JSON.stringify(texts)) return
    told = JSON.stringify(texts)
    const wanted = texts.length ? texts : ['']
    const now = areas()
    if (
      now.length === wanted.length &&
      now.every((area, place) => area.value === wanted[place].replace(/\r\n?/g, '\n'))
    )
      return
    fill(boxes, wanted.map(box))
    number()
  }

  function edit(place) {
    const area = areas()[place]
    area.focus()
    area.setSelectionRange(area.value.length, area.value.length)
  }

  set([])
  return { element: form, set, giveUp, edit, texts: () => areas().map((area) => area.value) }
}
