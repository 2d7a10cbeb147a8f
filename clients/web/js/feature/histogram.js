// How strongly a feature fires how often, drawn; and the same as a table.

import { el, fill, svg } from '../dom.js'
import { value, whole } from '../format.js'
import { wideTable } from '../parts.js'

const [WIDTH, HEIGHT] = [420, 150]
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 10, 22, 24]

/** Marks nearer than this share a label. */
const CLOSE = 14

/**
 * Bars of the index's bins on an axis of powers of two. `mark([{label, title, value}])` shows where some activations
 * lie in it.
 */
export function histogram({ histogram: bins, meanActivation, maxActivation, fires }) {
  const [low, high] = [Math.log2(bins[0].lower), Math.log2(bins.at(-1).upper)]
  const most = Math.max(...bins.map((bin) => Number(bin.count)))
  const x = (activation) => LEFT + ((Math.log2(activation) - low) / (high - low)) * (WIDTH - LEFT - RIGHT)
  const y = (count) => HEIGHT - BOTTOM - (count / most) * (HEIGHT - TOP - BOTTOM)
  const marks = svg('g', { class: 'marks' })
  const drawing = svg(
    'svg',
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: 'img',
      class: 'histogram',
      'aria-label':
        `Histogram of ${whole(fires)} activations, from ${value(bins[0].lower)} to ${value(maxActivation)}, ` +
        `mean ${value(meanActivation)}, on an axis of powers of two. ` +
        `Most lie ${between(bins.find((bin) => Number(bin.count) === most))}. The table below has every bin.`,
    },
    [0, most].map((count) => [
      svg('line', { class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: y(count), y2: y(count) }),
      svg('text', { class: 'tick', x: LEFT - 6, y: y(count) + 4, 'text-anchor': 'end' }, whole(count)),
    ]),
    bins.map((bin) =>
      svg(
        'rect',
        {
          class: 'bar',
          x: x(bin.lower) + 0.5,
          width: Math.max(1, x(bin.upper) - x(bin.lower) - 1),
          y: y(Number(bin.count)),
          height: HEIGHT - BOTTOM - y(Number(bin.count)),
        },
        svg('title', {}, `${between(bin)}: ${whole(bin.count)} tokens`),
      ),
    ),
    powers(low, high).map((power) =>
      svg('text', { class: 'tick', x: x(2 ** power), y: HEIGHT - 7, 'text-anchor': 'middle' }, tick(2 ** power)),
    ),
    x(meanActivation) >= LEFT && [
      svg('line', { class: 'mean', x1: x(meanActivation), x2: x(meanActivation), y1: TOP - 4, y2: HEIGHT - BOTTOM }),
      svg('text', { class: 'tick', x: x(meanActivation), y: TOP - 9, 'text-anchor': 'middle' }, 'mean'),
    ],
    marks,
  )

  function mark(places) {
    const shown = places
      .filter((one) => one.value > 0 && Math.log2(one.value) >= low)
      .map((one) => ({ ...one, at: Math.min(WIDTH - RIGHT, x(one.value)) }))
      .sort((one, other) => one.at - other.at)
    const near = [] // of those that would cover one another one label
    for (const one of shown) {
      if (near.length && one.at - near.at(-1).at(-1).at < CLOSE) near.at(-1).push(one)
      else near.push([one])
    }
    fill(
      marks,
      near.map((some) =>
        svg(
          'g',
          { class: 'mark' },
          svg('title', {}, some.map((one) => `${one.title}: ${value(one.value)}`).join(', ')),
          some.map(({ at }) => svg('path', { d: `M${at} ${HEIGHT - BOTTOM} l-6 -9 h12 z` })),
          svg(
            'text',
            { x: (some[0].at + some.at(-1).at) / 2, y: HEIGHT - BOTTOM - 13, 'text-anchor': 'middle' },
            some.map((one) => one.label).join(', '),
          ),
        ),
      ),
    )
  }

  const element = el(
    'figure',
    { class: 'histogram-figure' },
    drawing,
    el('figcaption', { class: 'quiet' }, 'Tokens by activation, each bar an eighth of a power of two.'),
    el(
      'details',
      {},
      el('summary', {}, 'The histogram as a table'),
      wideTable(
        'Histogram as a table',
        ['from', 'below', 'tokens'].map((words) => [words, true]),
        bins.map((bin) =>
          el(
            'tr',
            {},
            [short(bin.lower), short(bin.upper), whole(bin.count)].map((shown) => el('td', { class: 'number' }, shown)),
          ),
        ),
      ),
    ),
  )
  return { element, mark }
}

function between(bin) {
  return `from ${short(bin.lower)} to below ${short(bin.upper)}`
}

/** Powers of two between two logarithms, at most about six of them. */
function powers(low, high) {
  const step = Math.max(1, Math.ceil((high - low) / 6))
  const found = []
  for (let power = Math.ceil(low); power <= high; power++) if (power % step === 0) found.push(power)
  return found.length ? found : [low]
}

function tick(number) {
  return number < 0.01 ? number.toExponential(0) : String(Number(number.toPrecision(2)))
}

function short(number) {
  return String(Number(number.toPrecision(4)))
}
