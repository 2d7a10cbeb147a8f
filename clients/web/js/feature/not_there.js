// A feature that is not served: why, and which are.

import { address } from '../address.js'
import { callOnce } from '../api.js'
import { el } from '../dom.js'
import { problem } from '../parts.js'

/** The error, and links to the features nearest to the one asked for. */
export async function notThere(error, { source, index }) {
  const nearest = await callOnce('list-sources').then(
    ({ sources }) => near(sources, error.message, source, index),
    () => [],
  )
  return [
    el('h1', {}, 'No such feature'),
    problem(error),
    nearest.length > 0 &&
      el(
        'p',
        {},
        'Nearest: ',
        nearest.map((one, place) => [
          place > 0 && ', ',
          el('a', { class: 'feature', href: address('feature', `${one.id}:${one.index}`) }, `${one.name}:${one.index}`),
        ]),
      ),
  ]
}

/** Of the same source the last feature; of sources that the error names as near, the same, as far as they have it. */
function near(sources, message, source, index) {
  const called = sources.filter((one) => [one.id, ...one.aliases].includes(source.toLowerCase()))
  const words = message.split('did you mean')[1]?.split(/[\s,?]+/) ?? []
  const named = called.length ? called : words.flatMap((word) => sources.filter((one) => one.id === word))
  return named.map((one) => ({ id: one.id, name: one.name, index: Math.min(index, one.nFeatures - 1) }))
}
