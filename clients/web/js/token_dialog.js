// Asks for the token of a protected server.

import { sendable } from './api.js'
import { el } from './dom.js'

let open = null

/** Resolves to the token that was typed, or to null. `again`: one was given before, and refused. */
export function askForToken(again) {
  open ??= ask(again).finally(() => {
    open = null
  })
  return open
}

function ask(again) {
  return new Promise((resolve) => {
    const input = el('input', {
      type: 'password',
      autocomplete: 'off',
      id: 'token',
      required: true,
      oninput: () => {
        const fits = input.value === '' || sendable(input.value.trim())
        input.setCustomValidity(fits ? '' : 'A token is one word of printable ASCII characters.')
      },
    })
    const dialog = el(
      'dialog',
      { 'aria-labelledby': 'token-title' },
      el(
        'form',
        { method: 'dialog' },
        el('h2', { id: 'token-title' }, 'This server asks for a token'),
        again && el('p', { class: 'problem' }, 'It did not accept the one before.'),
        el('label', { for: 'token' }, 'Token, kept for this tab'),
        input,
        el(
          'div',
          { class: 'actions' },
          el('button', { value: 'give', class: 'primary' }, 'Use it'),
          el('button', { value: 'leave', formnovalidate: true }, 'Leave'),
        ),
      ),
    )
    dialog.addEventListener('close', () => {
      dialog.remove()
      resolve(dialog.returnValue === 'give' ? input.value.trim() : null)
    })
    document.body.append(dialog)
    dialog.showModal()
  })
}
