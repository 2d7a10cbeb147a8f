// Where a text is typed or chosen: Enter sends it.

import { el, fill, follow } from '../dom.js'
import { whole } from '../format.js'
import { EXAMPLES } from './examples.js'

/** The words of the first experiment, before the longer texts. */
const SHORT = ['red', 'My favorite color is red.']

let made = 0

/**
 * A form: `{root, input, text(), set(text), refuse(words)}`. `send(text)` is called for Enter, the button and an
 * example; `words` is the button's. `set` is told the text of each address: the same as before leaves what was typed.
 * `refuse` tells beside the box why its text was not taken, null that it was.
 */
export function textBox({ label, words, send }) {
  const id = `text-${made++}`
  const refused = el('p', { class: 'refused', id: `${id}-refused`, role: 'alert' })
  const input = el('textarea', {
    id,
    rows: 1,
    spellcheck: 'false',
    autocomplete: 'off',
    autocapitalize: 'off',
    enterkeyhint: 'search',
    'data-focus': '/',
    'aria-describedby': `${id}-hint ${id}-refused`,
    dir: 'auto',
    onkeydown: (event) => {
      // Enter that ends the composition of a character is not for us.
      if (event.key !== 'Enter' || event.isComposing || event.shiftKey || event.altKey) return
      event.preventDefault()
      root.requestSubmit()
    },
    oninput: () => {
      fit()
      refuse(null)
    },
  })
  const root = el(
    'form',
    {
      class: 'text-box',
      role: 'search',
      onsubmit: (event) => {
        event.preventDefault()
        if (input.value === '') {
          refuse('Type a text first, or pick an example.')
          input.focus()
        } else send(input.value)
      },
    },
    el('label', { for: id }, label),
    el('div', { class: 'text-line' }, input, el('button', { class: 'primary', type: 'submit' }, words)),
    refused,
    el(
      'div',
      { class: 'text-below' },
      el(
        'div',
        { class: 'tries', role: 'group', 'aria-label': 'Examples' },
        el('span', { class: 'quiet', 'aria-hidden': 'true' }, 'Try '),
        SHORT.map((text) => example(text, text)),
        Object.entries(EXAMPLES).map(([name, text]) => example(name, text)),
      ),
      el(
        'p',
        { class: 'hint', id: `${id}-hint` },
        el('kbd', {}, 'Enter'),
        ` ${words.toLowerCase()} · `,
        el('kbd', {}, 'Shift Enter'),
        ' new line · ',
        el('kbd', {}, '/'),
        ' to this box',
      ),
    ),
  )

  function example(name, text) {
    return el(
      'button',
      {
        class: 'link',
        type: 'button',
        title: text === name ? null : text,
        onclick: () => {
          input.value = text
          send(text)
        },
      },
      name,
    )
  }

  // As high as its text, within reason.
  function fit() {
    input.style.setProperty('height', 'auto')
    input.style.setProperty('height', `${Math.min(input.scrollHeight + 2, 220)}px`)
  }

  function set(text) {
    follow(input, text)
    refuse(null)
    requestAnimationFrame(fit)
  }

  function refuse(why) {
    fill(refused, why)
    if (why) input.setAttribute('aria-invalid', 'true')
    else input.removeAttribute('aria-invalid')
  }

  return { root, input, text: () => input.value, set, refuse }
}

/** What is said of a text over the server's limit of bytes, before it is sent; null of others. */
export function tooLong(text, limits) {
  const bytes = new TextEncoder().encode(text).length
  return bytes > limits.maxTextBytes
    ? `${whole(bytes)} bytes; this server takes at most ${whole(limits.maxTextBytes)}. Shorten the text.`
    : null
}
