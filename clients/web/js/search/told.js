// How an answer came about.

import { el } from '../dom.js'
import { entry, millis, whole } from '../format.js'

const CAME = {
  CACHE_TIER_NONE: ['the model read the text', ''],
  CACHE_TIER_LOCAL: ['answered before', 'This server had given the same answer before and kept it.'],
  CACHE_TIER_SHARED: [
    'answered before by a replica',
    'Another replica of this server had given the same answer before.',
  ],
  CACHE_TIER_INNER: [
    'ranked anew, the model did not run',
    'What the features do on this text was kept: it was only ranked anew.',
  ],
}

/** Number of features, time, cache; with what was cut away said before all. */
export function told(answer, info) {
  const sources = answer.sourcesConsidered.length
  const [words, more] = entry(CAME, answer.callInfo.cache) ?? ['', '']
  return el(
    'div',
    { class: 'told' },
    answer.truncated &&
      el(
        'p',
        { class: 'note' },
        `The text is longer than the ${whole(info.limits.maxTokens)} tokens that this model reads here: `,
        `only its first ${whole(answer.tokens.length)} were searched.`,
      ),
    el(
      'p',
      { class: 'hint' },
      `${whole(answer.featuresConsidered)} features of ${whole(sources)} ${sources === 1 ? 'source' : 'sources'}`,
      ` considered · ${millis(answer.callInfo.totalMicros)}`,
      words && [' · ', el('span', { class: 'came', 'data-cache': answer.callInfo.cache, title: more }, words)],
    ),
  )
}

/** Why nothing fires, as far as can be told. */
export function nothing(answer, state) {
  const considered = Number(answer.featuresConsidered)
  const why =
    considered === 0
      ? 'The filters leave no feature: widen them.'
      : state.sort.length
        ? `None of ${whole(considered)} features fires on this token. Unsort, or choose another.`
        : state.ranking !== 'raw'
          ? `None of ${whole(considered)} features that are frequent enough in the index fires on this text.`
          : `None of ${whole(considered)} features fires on this text.`
  return el('p', { class: 'empty' }, why)
}
