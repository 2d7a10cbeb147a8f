// Which features fire on a text? What is asked stands in the address; the page asks whenever that changes.

import { go, note } from '../address.js'
import { call, callOnce } from '../api.js'
import { announce, el, fill } from '../dom.js'
import { visible } from '../format.js'
import { problem, progress, unreadNote } from '../parts.js'
import { tokenTable } from '../search/by_token.js'
import { options } from '../search/options.js'
import { pickedBar } from '../search/picked.js'
import { inWords, isLong, legend, resultTable } from '../search/results.js'
import { limitOf, readState, requestOf, stateAddress } from '../search/state.js'
import { tokenStrip } from '../search/strip.js'
import { textBox, tooLong } from '../search/text_box.js'
import { nothing, told } from '../search/told.js'

/** Work shorter than this shows no bar, which would only flicker. */
const PATIENCE_MS = 200

// The control that a field of the request belongs to.
const FIELDS = [
  ['input', 'text'],
  ['sort_tokens', 'strip'],
  ['limit', 'limit'],
  ['ranking', 'ranking'],
  ['min_fires', 'fires'],
  ['filter.min_density', 'density'],
  ['filter.max_density', 'density'],
  ['filter.include.layers', 'layers'],
  ['filter.include.sets', 'set'],
  ['filter.exclude', 'not'],
]

export function title(name, params) {
  const text = params.get('text') ?? ''
  return text ? visible(text.slice(0, 60)) : 'Search'
}

let page = null

export async function show({ params, main, signal }) {
  const [listed, info] = await Promise.all([callOnce('list-sources'), callOnce('get-server-info')])
  if (signal.aborted) return
  page ??= build({ sources: listed.sources, info })
  if (page.root.parentNode !== main) fill(main, page.root)
  await page.show(readState(params, info.limits), signal)
}

function build(served) {
  const { sources, info } = served
  let state = readState(new URLSearchParams(), info.limits)
  let goFrom = null // the row from which "show more" went on

  const box = textBox({
    label: 'A text: which features fire on it?',
    words: 'Search',
    send: (text) => change({ text }),
  })
  const strip = tokenStrip((sort) => change({ sort }))
  const controls = options(served, (part) => change({ text: box.text(), ...part }))
  const unread = el('div')
  const above = el('div', { class: 'above' })
  const found = el('div', { class: 'found' })
  const below = el('div', { class: 'below' })
  const picked = pickedBar((pick) => {
    setPick(pick)
    for (const one of found.querySelectorAll('td.pick input'))
      one.checked = pick.includes(one.closest('tr').dataset.feature)
  })
  const results = el('section', { 'aria-label': 'Results', class: 'answer' }, above, found, below)
  const root = el(
    'div',
    { class: 'search' },
    el('h1', { class: 'unseen' }, 'Search'),
    box.root,
    controls.root,
    unread,
    strip.root,
    results,
    picked.root,
  )

  function change(part, { replace = false } = {}) {
    const next = { ...state, ...part }
    // Another text has other tokens.
    if (next.text !== state.text) next.sort = []
    go(stateAddress(next), { replace })
  }

  function setPick(pick) {
    state = { ...state, pick }
    // No search follows from it, so nothing else is told.
    note(stateAddress(state))
    picked.show(state)
  }

  function pick(name, on) {
    const others = state.pick.filter((one) => one !== name)
    const next = on ? [...others.slice(-1), name] : others
    setPick(next)
    for (const one of found.querySelectorAll('td.pick input'))
      one.checked = next.includes(one.closest('tr').dataset.feature)
  }

  async function showState(next, signal) {
    const from = goFrom
    goFrom = null // whatever comes of this search, the next one starts anew
    const sameText = next.text === state.text
    state = next
    box.set(state.text)
    controls.sync(state)
    picked.show(state)
    fill(unread, unreadNote(state.unread))
    if (!sameText) strip.hide()
    if (state.text === '') return welcome()
    const long = tooLong(state.text, info.limits)
    if (long) {
      box.refuse(long)
      return clear()
    }
    await search(signal, from)
  }

  function clear() {
    strip.hide()
    for (const one of [above, found, below]) fill(one)
    results.removeAttribute('aria-busy')
  }

  function welcome() {
    clear()
    // Who has just come here is about to type, unless that opens a keyboard over half of the page.
    if (document.activeElement === document.body && matchMedia('(pointer: fine)').matches) box.input.focus()
    fill(
      found,
      el(
        'div',
        { class: 'welcome' },
        el(
          'p',
          {},
          'A feature is one direction in the activations of the model ',
          el('bdi', {}, visible(info.model.name)),
          ': a latent of a sparse autoencoder, or an MLP neuron. ',
          'Type a text to see which of them fire on it, and how strongly on each token.',
        ),
        el(
          'p',
          {},
          'Then click a token to sort by it, open a feature to see on what else it fires, ',
          'and change a word there to test it.',
        ),
      ),
    )
  }

  async function search(signal, from) {
    const stopped = new AbortController()
    const wait = setTimeout(
      () =>
        fill(
          above,
          el(
            'div',
            { class: 'actions' },
            progress('Searching…'),
            el('button', { type: 'button', onclick: () => stopped.abort() }, 'Stop'),
          ),
        ),
      PATIENCE_MS,
    )
    results.setAttribute('aria-busy', 'true')
    try {
      const answer = await call('search', requestOf(state, sources), {
        signal: AbortSignal.any([signal, stopped.signal]),
      })
      if (signal.aborted) return
      draw(answer, from)
    } catch (error) {
      if (signal.aborted) return
      clear()
      if (stopped.signal.aborted) fill(above, el('p', { class: 'note' }, 'Stopped. ', again()))
      else refuse(error)
    } finally {
      clearTimeout(wait)
      if (!signal.aborted) results.removeAttribute('aria-busy')
    }
  }

  const retry = () => go(location.hash)
  const again = () => el('button', { type: 'button', onclick: retry }, 'Search again')

  // Beside the control that it is about; what is about none, or about one that is not there, before the results.
  function refuse(error) {
    const said = error.violations ?? []
    const places = said.map((one) => FIELDS.find(([path]) => one.field.startsWith(path))?.[1])
    if (said.length === 0 || places.includes(undefined)) fill(above, problem(error, retry))
    else {
      said.forEach((one, index) => {
        const words = visible(one.description)
        if (places[index] === 'text') box.refuse(words)
        else if (places[index] === 'strip')
          fill(
            above,
            el(
              'p',
              { class: 'note', role: 'alert' },
              `The token to sort by: ${words}. `,
              el('button', { type: 'button', onclick: () => change({ sort: [] }) }, 'Unsort'),
            ),
          )
        else
          controls.refuse(places[index], places[index] === 'density' ? `As a share, not in percent: ${words}` : words)
      })
    }
  }

  function draw(answer, from) {
    strip.show(answer.tokens, answer.sortPositions, { byToken: state.by === 'token' })
    const rows = state.by === 'token' ? answer.tokenResults.length : answer.results.length
    const any = state.by === 'token' ? answer.features.length : rows
    fill(
      above,
      told(answer, info),
      state.by === 'text' &&
        rows > 0 &&
        isLong(answer.tokens) &&
        el(
          'label',
          { class: 'check' },
          el('input', {
            type: 'checkbox',
            id: 'whole',
            checked: Boolean(state.whole),
            onchange: (event) => change({ whole: event.target.checked ? '1' : '' }, { replace: true }),
          }),
          ' whole texts',
        ),
    )
    fill(
      found,
      any === 0
        ? nothing(answer, state)
        : state.by === 'token'
          ? tokenTable(answer, state, { choose: (row) => change({ sort: [row] }) })
          : resultTable(answer, state, {
              pick,
              leaveOut: (name) => change({ not: [...new Set([...state.not, name])] }),
            }),
    )
    fill(below, any > 0 && legend(answer), more(answer))
    announce(inWords(answer, state))
    if (from !== null) found.querySelectorAll('tbody tr')[from]?.querySelector('a')?.focus()
  }

  function more(answer) {
    const limit = limitOf(state)
    const most = info.limits.maxLimit
    const full =
      state.by === 'token'
        ? answer.tokenResults.some((one) => one.features.length >= limit)
        : answer.results.length >= limit
    if (!full || limit >= most) return null
    const next = Math.min(most, limit + (state.by === 'token' ? 5 : 25))
    return el(
      'button',
      {
        type: 'button',
        class: 'show-more',
        onclick: () => {
          goFrom = state.by === 'token' ? null : limit
          change({ limit: next }, { replace: true })
        },
      },
      state.by === 'token' ? `Show ${next} of each token` : `Show ${next - limit} more`,
    )
  }

  return { root, show: showState }
}
