// One feature: what it is, on which texts it fires, which others are like it; and a box to test it in.
//
// Accessible names that stay: headings "Test box", "Texts", "Similar features"; text boxes "Variant 1", "Variant 2",
// …; buttons "Encode", "Add a variant", "Remove variant 2", "Copy into the test box: record 1", "More texts", "More
// similar features"; groups "Variant 1", … hold what came of each; selects "Show", "One for each", "Alike in",
// "Among"; fields "Alike from" and "Layers"; regions "Table of similar features", "Activations token by token".

import { address, go, read } from '../address.js'
import { call, callOnce } from '../api.js'
import { announce, el, fill } from '../dom.js'
import { featureId } from '../format.js'
import { problem, unreadNote } from '../parts.js'
import { explanations, factList, firing, kind, usualTokens, warnings } from '../feature/facts.js'
import { histogram } from '../feature/histogram.js'
import { notThere } from '../feature/not_there.js'
import { recordsSection } from '../feature/records.js'
import { section } from '../feature/section.js'
import { similarSection } from '../feature/similar.js'
import { addressOf, carry, state } from '../feature/state.js'
import { testBox } from '../feature/test_box.js'

export function title(name) {
  return name ? name.toUpperCase() : 'Feature'
}

// The page stays while only its state changes: what is typed, and the place of the cursor, are not lost.
let page = null

export async function show({ name, params, main, signal }) {
  const id = featureId(name)
  if (id === null) return choose(name, main)
  if (page?.name !== name || !main.contains(page.element)) {
    page?.leave()
    page = build(name, id, main)
    fill(main, page.element)
  }
  const mine = page
  signal.addEventListener(
    'abort',
    () => {
      const now = read()
      if (now.view === 'feature' && now.name === name) return
      mine.leave()
      if (page === mine) page = null
    },
    { once: true },
  )
  await page.update(state(params))
}

function build(name, id, main) {
  let now = null
  let marks = () => {}
  const change = (part, options) => go(addressOf(name, { ...now, ...part }), options)
  const heading = el('h1', { class: 'feature-name' }, title(name))
  const neighbours = el('nav', { class: 'neighbours', 'aria-label': 'Neighbours' }, beside(id))
  const withAnother = el('a', { href: address('compare', '', { a: name }) }, 'side by side with another')
  const about = section('About', { className: 'about' })
  const box = testBox(id, { change, onResult: (maxima) => marks(maxima) })
  const records = recordsSection(id, { change, onCopy: box.copy })
  const similar = similarSection(id, { change })
  const sections = [about, box, records, similar]
  const unread = el('div')
  const element = el(
    'div',
    { class: 'feature-page' },
    el('div', { class: 'feature-top' }, heading, neighbours, withAnother, opener()),
    unread,
    about.element,
    box.element,
    el('div', { class: 'beside' }, records.element, similar.element),
  )

  let told = null
  const facts = async (signal) => {
    try {
      told = await call('get-feature', { feature: id }, { signal })
    } catch (error) {
      if (error.status === 'NOT_FOUND') {
        leave()
        page = null
        fill(main, await notThere(error, id))
        announce(error.message)
      }
      throw error
    }
    heading.textContent = told.facts.name
    fill(neighbours, beside(told.facts.feature, told.source.nFeatures))
    return aboutIt(told)
  }
  const known = about.load('facts', facts, { words: 'Asking what is known …' }).then(() => told)

  function aboutIt(answer) {
    const { facts, source, statistics } = answer
    const drawn = statistics?.histogram?.length ? histogram(statistics) : null
    return [
      explanations(facts) ??
        el('p', { class: 'quiet' }, `A ${kind(facts)} of layer ${facts.layer}; no explanation of it was imported.`),
      el(
        'div',
        { class: 'about-columns' },
        el(
          'div',
          {},
          statistics
            ? firing(statistics)
            : el('p', { class: 'quiet' }, 'The server has no index of this source: how often it fires is not known.'),
          usualTokens(statistics?.topTokens ?? facts.usualTokens),
          factList(answer),
          warnings(source),
        ),
        drawn && show(drawn),
      ),
    ]
    function show({ element: figure, mark }) {
      marks = mark
      return figure
    }
  }

  function leave() {
    sections.forEach((one) => one.leave())
  }

  function update(wanted) {
    now = wanted
    fill(unread, unreadNote(now.unread))
    const most = known.then((answer) => answer?.facts.indexMaxActivation ?? null)
    const drawn = [known, box.update(now, most), records.update(now), similar.update(now)]
    carry(now.texts, element)
    return Promise.all(drawn.map((one) => one.then(() => carry(now.texts, element))))
  }

  return { name, element, update, leave }
}

/** Links to the features before and after it in its source, of so many. */
function beside({ source, index }, many = 0) {
  const link = (to, words, mark) =>
    el('a', { href: address('feature', `${source}:${to}`), 'aria-label': words, title: words }, mark)
  return [
    index > 0 && link(index - 1, 'Feature before', '←'),
    ' ',
    index + 1 < many && link(index + 1, 'Feature after', '→'),
  ]
}

/** A field that opens a feature by its name. */
function opener() {
  const input = el('input', {
    type: 'text',
    'aria-label': 'Open a feature by name',
    placeholder: 'source:index',
    size: '14',
    autocomplete: 'off',
    required: true,
  })
  return el(
    'form',
    {
      class: 'opener',
      onsubmit: (event) => {
        event.preventDefault()
        go(address('feature', input.value.trim().toLowerCase()))
      },
    },
    input,
    ' ',
    el('button', {}, 'Open'),
  )
}

async function choose(name, main) {
  page = null
  const words = name
    ? problem({
        status: 'INVALID_ARGUMENT',
        message: `${name} is no name of a feature: source and index are expected, such as 0-demo:1633.`,
      })
    : el('p', {}, 'Which one? A source and an index, joined by a colon.')
  const sources = el('p', { class: 'quiet' })
  fill(main, el('h1', {}, 'A feature'), words, opener(), sources)
  const { sources: served } = await callOnce('list-sources')
  fill(
    sources,
    'Sources: ',
    served.map((one, place) => [
      place > 0 && ', ',
      el('a', { class: 'feature', href: address('feature', `${one.id}:0`) }, one.name),
    ]),
  )
}
