// What several views show alike: errors, progress, names of features, what is known of one.

import { address } from './address.js'
import { el } from './dom.js'
import { entry, featureName, share, spaced, visible } from './format.js'

const MATCHES = {
  MATCH_EXACT: ['✓', 'exact', 'a token on which it usually fires'],
  MATCH_FOLDED: ['~', 'folded', 'a token on which it usually fires, but for case or spaces'],
  MATCH_NONE: ['✗', 'none', 'not a token on which it usually fires'],
}

/** A mark of whether a feature fires on a token on which it usually does. */
export function match(name) {
  const [mark, kind, words] = entry(MATCHES, name) ?? ['', 'unknown', 'no index: usual tokens are not known']
  return el('span', { class: `match ${kind}`, role: 'img', title: words, 'aria-label': words }, mark)
}

/** A feature's name, as a link to its page. `params` go into the address. */
export function featureLink(facts, params = {}) {
  return el(
    'a',
    { class: 'feature', href: address('feature', featureName(facts.feature), params) },
    visible(facts.name),
  )
}

/** Share of tokens on which a feature fires, and by whose word. */
export function density(facts) {
  const origins = {
    DENSITY_ORIGIN_INDEX: 'in the index',
    DENSITY_ORIGIN_FILE: "by the SAE's file",
    DENSITY_ORIGIN_IMPORT: 'as imported',
  }
  const words =
    facts.density === undefined
      ? 'not known'
      : `fires on ${share(facts.density)} of tokens ${entry(origins, facts.densityOrigin) ?? ''}`
  return el('span', { class: 'density', title: words }, share(facts.density))
}

/** The tokens on which a feature usually fires. */
export function usual(facts, most = 5) {
  const tokens = (facts.usualTokens ?? []).slice(0, most)
  if (!tokens.length) return el('span', { class: 'quiet' }, '–')
  return el(
    'span',
    { class: 'usual' },
    tokens.map((one) =>
      el('bdi', { class: 'chip', title: `peaks on it in ${one.count} records` }, spaced(one.token.display ?? '')),
    ),
  )
}

/** The best explanation of a feature, if it has one. */
export function explained(facts) {
  const best = (facts.explanations ?? [])[0]
  if (!best) return null
  const by = [best.type, best.model, best.origin].filter(Boolean).join(', ')
  return el('bdi', { class: 'explanation', title: by }, visible(best.text))
}

/**
 * A table that scrolls in itself where the page is narrow. `heads`: words and whether numbers stand below them, a pair
 * for each column; `rows`: `tr` elements. `label` names it to those who do not see it.
 */
export function wideTable(label, heads, rows) {
  const head = heads.map(([words, number]) => el('th', { scope: 'col', class: number ? 'number' : null }, words))
  return el(
    'div',
    { class: 'wide', tabindex: '0', role: 'region', 'aria-label': label },
    el('table', {}, el('thead', {}, el('tr', {}, head)), el('tbody', {}, rows)),
  )
}

/** An error in words, with a button that tries again where that may help. */
export function problem(error, again = null) {
  const parts = [el('p', {}, el('strong', {}, titled(error)), ' ', el('bdi', {}, visible(error.message)))]
  const extra = (error.violations ?? []).filter((one) => !error.message.includes(one.description))
  if (extra.length)
    parts.push(
      el(
        'ul',
        {},
        extra.map((one) => el('li', {}, el('code', {}, one.field), ': ', visible(one.description))),
      ),
    )
  if (error.retryDelay)
    parts.push(el('p', { class: 'quiet' }, `It can be tried again in ${Number(error.retryDelay).toFixed(1)} s.`))
  if (error.requestId) parts.push(el('p', { class: 'quiet' }, 'request ', el('code', {}, error.requestId)))
  if (again) parts.push(el('button', { type: 'button', onclick: again }, 'Try again'))
  return el('div', { class: 'problem', role: 'alert' }, parts)
}

const TITLES = {
  UNAVAILABLE: 'No answer.',
  RESOURCE_EXHAUSTED: 'Busy.',
  DEADLINE_EXCEEDED: 'It took too long.',
  NOT_FOUND: 'Not there.',
  UNAUTHENTICATED: 'A token is needed.',
  FAILED_PRECONDITION: 'Not possible here.',
  INVALID_ARGUMENT: 'Not understood.',
}

function titled(error) {
  return entry(TITLES, error.status) ?? 'It failed.'
}

/** That parts of an address cannot be read; null where all can. `unread` are such parts, `limit=0`. */
export function unreadNote(unread) {
  if (!unread.length) return null
  return el(
    'p',
    { class: 'note' },
    'This part of the address cannot be read, and says nothing: ',
    el('code', {}, visible(unread.join(', '))),
    '.',
  )
}

/** Words and a bar while something is awaited. `done` of `all`, or neither for work of unknown length. */
export function progress(words, done = null, all = null) {
  return el('p', { class: 'progress' }, el('progress', { 'aria-label': words, max: all, value: done }), ' ', words)
}
