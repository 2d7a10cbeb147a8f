// A text taken apart: for each layer and kind, how many of the features that fire most do so on a token on which they
// usually fire.

import { address, go } from '../address.js'
import { callOnce } from '../api.js'
import { announce, el, fill } from '../dom.js'
import { visible, whole } from '../format.js'
import { problem, progress, unreadNote } from '../parts.js'
import { countAll, KIND_NAMES, parts } from '../search/match_rows.js'
import { hasMaxima, number } from '../search/options.js'
import { limitOf, readState, stateAddress } from '../search/state.js'
import { textBox, tooLong } from '../search/text_box.js'

const TITLES = { latent: 'SAE latents', neuron: 'MLP neurons' }

export function title(name, params) {
  const text = params.get('text') ?? ''
  return text ? `Match table: ${visible(text.slice(0, 40))}` : 'Match table'
}

let page = null

export async function show({ params, main, signal }) {
  const [listed, info] = await Promise.all([callOnce('list-sources'), callOnce('get-server-info')])
  if (signal.aborted) return
  page ??= build({ sources: listed.sources, info })
  if (page.root.parentNode !== main) fill(main, page.root)
  await page.show(readState(params, info.limits), signal)
}

function build({ sources, info }) {
  let state = readState(new URLSearchParams(), info.limits)
  const box = textBox({ label: 'A text to take apart', words: 'Count', send: (text) => change({ text }) })
  const ranking = el(
    'select',
    { id: 'match-ranking', onchange: () => change({ ranking: ranking.value }) },
    el('option', { value: 'raw' }, 'activation'),
    el('option', { value: 'relative', disabled: !hasMaxima(info) }, 'share of its maximum'),
    el('option', { value: 'surprisal', disabled: !info.index }, 'surprisal, in bits'),
  )
  const limit = number('match-limit', { min: 1, max: info.limits.maxLimit, step: 1 }, (value) =>
    change({ limit: value }),
  )
  const refused = el('p', { class: 'refused', role: 'alert' })
  const unread = el('div')
  const found = el('section', { 'aria-label': 'Counts', class: 'answer' })
  const root = el(
    'div',
    { class: 'match-view' },
    el('h1', { class: 'unseen' }, 'Match table'),
    box.root,
    el(
      'div',
      { class: 'options' },
      el(
        'div',
        { class: 'choices' },
        el('div', { class: 'field' }, el('label', { for: 'match-ranking' }, 'Compared by'), el('div', {}, ranking)),
        el('div', { class: 'field' }, el('label', { for: 'match-limit' }, 'Of the top'), el('div', {}, limit), refused),
      ),
    ),
    unread,
    found,
  )

  function change(part) {
    const next = { ...state, text: box.text(), ...part }
    go(
      address('match', '', {
        text: next.text,
        ranking: next.ranking === 'raw' ? '' : next.ranking,
        limit: next.limit === 25 ? '' : next.limit,
      }),
    )
  }

  async function showState(next, signal) {
    state = { ...next, sort: [], by: 'text' }
    box.set(state.text)
    ranking.value = state.ranking
    limit.value = limitOf(state)
    fill(refused)
    fill(unread, unreadNote(state.unread))
    if (state.text === '')
      return fill(
        found,
        el(
          'div',
          { class: 'welcome' },
          el(
            'p',
            {},
            'Of the features that fire most in each layer, how many fire most on a token on which they usually do? ',
            'Where many do, the layer reads words; where few do, it reads what stands between them.',
          ),
        ),
      )
    const long = tooLong(state.text, info.limits)
    if (long) {
      box.refuse(long)
      return fill(found)
    }
    await countThem(signal)
  }

  async function countThem(signal) {
    const all = parts(sources)
    const rows = []
    const told = el('div', { class: 'counting' })
    const tell = () =>
      fill(
        told,
        rows.length < all.length && progress(`${rows.length} of ${all.length} searches`, rows.length, all.length),
      )
    const wait = setTimeout(tell, 200)
    const table = el('div')
    fill(found, told, table)
    found.setAttribute('aria-busy', 'true')
    fill(table, drawn(all, rows))
    try {
      await countAll(
        state,
        sources,
        (row) => {
          if (signal.aborted) return
          rows.push(row)
          if (told.childElementCount) tell()
          fill(table, drawn(all, rows))
        },
        signal,
      )
      if (signal.aborted) return
      fill(told)
      table.append(notes(rows))
      announce(`${rows.length} counts.`)
    } catch (error) {
      if (signal.aborted) return
      refuse(error)
    } finally {
      clearTimeout(wait)
      if (!signal.aborted) found.removeAttribute('aria-busy')
    }
  }

  function refuse(error) {
    const [said] = error.violations ?? []
    if (said?.field.startsWith('input')) {
      box.refuse(visible(said.description))
      fill(found)
    } else if (said?.field === 'limit') {
      fill(refused, visible(said.description))
      fill(found)
    } else
      fill(
        found,
        problem(error, () => go(location.hash)),
      )
  }

  function drawn(all, rows) {
    const kinds = Object.keys(KIND_NAMES).filter((kind) => all.some((one) => one.kind === kind))
    const layers = [...new Set(all.map((one) => one.layer))]
    return el(
      'table',
      { class: 'matches' },
      el(
        'caption',
        {},
        `Of the top ${whole(limitOf(state))} of each layer and kind, how many fire most on a token on which they `,
        'usually do, whatever its case and the space around it.',
      ),
      el(
        'thead',
        {},
        el(
          'tr',
          {},
          el('th', { scope: 'col' }, 'Layer'),
          kinds.map((kind) => el('th', { scope: 'col' }, TITLES[kind])),
        ),
      ),
      el(
        'tbody',
        {},
        layers.map((layer) =>
          el(
            'tr',
            {},
            el('th', { scope: 'row' }, layer),
            kinds.map((kind) => {
              const row = rows.find((one) => one.layer === layer && one.kind === kind)
              const served = all.some((one) => one.layer === layer && one.kind === kind)
              return el('td', {}, row ? cell(row) : el('span', { class: 'quiet' }, served ? '…' : '–'))
            }),
          ),
        ),
      ),
    )
  }

  function cell(row) {
    const known = row.features - row.unknown
    const words =
      known === 0
        ? row.features === 0
          ? 'none fires'
          : `${row.features} fire, usual tokens not known`
        : `${row.matched}/${known}`
    const made = el(
      'a',
      {
        class: 'count-cell',
        title: known
          ? `${row.exact} exact, ${row.folded} but for case or spaces, ${known - row.matched} on another token` +
            (row.unknown ? `, ${row.unknown} not known` : '')
          : null,
        href: stateAddress({
          text: state.text,
          kind: row.kind,
          layers: [row.layer],
          ranking: state.ranking,
          limit: state.limit,
        }),
      },
      el('span', { class: 'count-words' }, words),
      known > 0 && el('span', { class: 'count-share' }, `${Math.round((100 * row.matched) / known)}%`),
    )
    made.style.setProperty('--on', known ? (row.matched / known).toFixed(3) : '0')
    return made
  }

  function notes(rows) {
    const cut = rows.find((one) => one.truncated)
    return el(
      'div',
      {},
      cut &&
        el(
          'p',
          { class: 'note' },
          `The text is longer than this model reads here: only its first ${whole(cut.tokens)} tokens were searched.`,
        ),
      rows.every((one) => one.features === one.unknown) &&
        el('p', { class: 'note' }, 'No usual tokens are known: this server has no index of top activations.'),
      el('p', { class: 'hint' }, 'Each cell leads to its features.'),
    )
  }

  return { root, show: showState }
}
