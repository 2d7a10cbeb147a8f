// Words, and the features that were explained in them. Explanations are imported, never made here.
//
// Accessible names that stay: search box "Words", selects "Among", field "Layers", buttons "Search", "More
// explanations".

import { address, count, go } from '../address.js'
import { call } from '../api.js'
import { announce, el, fill, follow } from '../dom.js'
import { millis, visible } from '../format.js'
import { density, featureLink, problem, progress, unreadNote, usual } from '../parts.js'
import { among, KINDS, labelled, layersField, select } from '../feature/controls.js'

/** How many are shown at first, and how many more each time. */
const PAGE = 10

/** The largest page of the contract. */
const MOST = 100

export function title(name, params) {
  const words = params?.get('q')
  return words ? `${words} – explanations` : 'Explanations'
}

export async function show({ params, main, signal }) {
  const unread = []
  const state = {
    q: params.get('q') ?? '',
    kind: params.get('kind') ?? '',
    layers: params.get('layers') ?? '',
    n: count(params, 'n', unread, { unset: PAGE }),
  }
  const results = main.querySelector('.explanations-found') ?? frame(main)
  const form = main.querySelector('form')
  follow(form.elements.q, state.q)
  form.elements.kind.value = state.kind
  follow(form.elements.layers, state.layers)
  fill(main.querySelector('.unread'), unreadNote(unread))
  if (!state.q) {
    fill(
      results,
      el(
        'p',
        { class: 'quiet' },
        'Words, whatever their case or ending; all of them are to be in it. "In quotes" they are a phrase.',
      ),
    )
    return
  }
  const later = setTimeout(() => fill(results, progress('Searching …')), 200)
  try {
    const found = await fetched(state, signal)
    fill(results, drawn(found, state))
    announce(`${found.results.length} explanations`)
  } catch (error) {
    if (signal.aborted) return
    fill(
      results,
      error.reason === 'RECORDS_REQUIRED' ? nothingImported() : problem(error, () => show({ params, main, signal })),
    )
  } finally {
    clearTimeout(later)
  }
}

/** So many results as the state says, from as many pages as they take. */
async function fetched(state, signal) {
  const results = []
  let answer
  do {
    answer = await call(
      'search-explanations',
      {
        query: state.q,
        filter: among(state),
        pageSize: Math.min(MOST, state.n - results.length),
        pageToken: answer?.nextPageToken ?? '',
      },
      { signal },
    )
    results.push(...answer.results)
  } while (answer.nextPageToken && results.length < state.n)
  return { results, more: answer.nextPageToken !== '', callInfo: answer.callInfo }
}

function frame(main) {
  const now = () => Object.fromEntries(['q', 'kind', 'layers'].map((key) => [key, form.elements[key].value.trim()]))
  const changed = () => go(address('explanations', '', now()))
  const words = el('input', { type: 'search', name: 'q', autocomplete: 'off', 'data-focus': '/', size: '34' })
  const kind = select(KINDS, changed)
  kind.name = 'kind'
  const layers = layersField(changed)
  layers.name = 'layers'
  const form = el(
    'form',
    {
      class: 'controls',
      role: 'search',
      onsubmit: (event) => {
        event.preventDefault()
        changed()
      },
    },
    labelled('Words', words),
    labelled('Among', kind),
    labelled('Layers', layers),
    el('button', { class: 'primary' }, 'Search'),
  )
  const results = el('div', { class: 'explanations-found' })
  fill(main, el('h1', {}, 'Explanations'), form, el('div', { class: 'unread' }), results)
  return results
}

function drawn({ results, more, callInfo }, state) {
  if (!results.length) return el('p', {}, 'No explanation holds all of these words.')
  return [
    el(
      'ol',
      { class: 'record-list' },
      results.map(({ facts, explanation }) =>
        el(
          'li',
          { class: 'record' },
          el(
            'div',
            { class: 'record-head' },
            el('p', {}, featureLink(facts), ' ', el('bdi', { class: 'explanation' }, visible(explanation.text))),
            el('span', { class: 'quiet' }, by(explanation)),
          ),
          el('p', { class: 'quiet' }, density(facts), ' of tokens, usually on ', usual(facts)),
        ),
      ),
    ),
    more &&
      el(
        'div',
        { class: 'actions' },
        el(
          'button',
          {
            type: 'button',
            onclick: () => go(address('explanations', '', { ...state, n: state.n + PAGE }), { replace: true }),
          },
          'More explanations',
        ),
      ),
    el('p', { class: 'quiet' }, millis(callInfo.totalMicros)),
  ]
}

function by({ score, type, model, origin }) {
  return visible(
    [score === undefined ? '' : `score ${score.toFixed(2)}`, type, model, origin && `from ${origin}`]
      .filter(Boolean)
      .join(', '),
  )
}

function nothingImported() {
  return el(
    'p',
    {},
    'No explanations were imported into this server, and none are made here. ',
    el('code', {}, 'saeserve-server records import'),
    " makes a store of others' explanations, and the setting ",
    el('code', {}, 'imports'),
    ' serves it.',
  )
}
