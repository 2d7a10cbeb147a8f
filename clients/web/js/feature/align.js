// Variants of a text, token by token: which tokens stand opposite one another, as the Python client's `compare` has it.

/**
 * Rows that hold every token of every text once, in order: `rows[i][text]` is a place in that text, or null where it
 * has none there. `texts` are lists of pieces. Each is aligned with the first by its longest common runs; what has
 * nothing opposite there stands in rows of its own, which the texts share.
 */
export function align(texts) {
  const first = texts[0]
  const opposite = [first.map((_, place) => place)]
  const between = [first.map(() => []).concat([[]])]
  for (const text of texts.slice(1)) {
    const own = first.map(() => null)
    const more = first.map(() => []).concat([[]])
    for (const { begin, end, start, stop } of steps(first, text)) {
      const both = Math.min(end - begin, stop - start)
      for (let i = 0; i < both; i++) own[begin + i] = start + i
      for (let place = start + both; place < stop; place++) more[begin + both].push(place)
    }
    opposite.push(own)
    between.push(more)
  }
  const rows = []
  for (let place = 0; place <= first.length; place++) {
    const added = Math.max(...between.map((more) => more[place].length))
    for (let number = 0; number < added; number++) rows.push(between.map((more) => more[place][number] ?? null))
    if (place < first.length) rows.push(opposite.map((own) => own[place]))
  }
  return rows
}

/** Rows in which a text differs from the first, each run of them as one change: `{rows, before, after}`, places. */
export function changes(rows, texts, text) {
  const found = []
  let open = null
  rows.forEach((places, row) => {
    const [before, after] = [places[0], places[text]]
    const alike = before === null ? after === null : after !== null && texts[0][before] === texts[text][after]
    if (alike) {
      if (before !== null) open = null // a row that neither has is a third text's, and separates nothing
      return
    }
    if (open === null) found.push((open = { rows: [], before: [], after: [] }))
    open.rows.push(row)
    if (before !== null) open.before.push(before)
    if (after !== null) open.after.push(after)
  })
  return found
}

/** How one list becomes another: stretches of both that are the same, or stand for one another, in order. */
function steps(a, b) {
  const found = []
  let [i, j] = [0, 0]
  for (const { at, to, size } of [...common(a, b), { at: a.length, to: b.length, size: 0 }]) {
    if (i < at || j < to) found.push({ begin: i, end: at, start: j, stop: to })
    if (size) found.push({ begin: at, end: at + size, start: to, stop: to + size })
    ;[i, j] = [at + size, to + size]
  }
  return found
}

/** Runs that both have, longest first and then either side of it, by place: as Python's difflib finds them. */
function common(a, b) {
  const where = new Map()
  b.forEach((piece, place) => (where.has(piece) ? where.get(piece).push(place) : where.set(piece, [place])))
  const found = []
  const open = [[0, a.length, 0, b.length]]
  while (open.length) {
    const [alo, ahi, blo, bhi] = open.pop()
    const best = longest(a, where, alo, ahi, blo, bhi)
    if (!best.size) continue
    found.push(best)
    open.push([alo, best.at, blo, best.to], [best.at + best.size, ahi, best.to + best.size, bhi])
  }
  return found.sort((one, other) => one.at - other.at)
}

function longest(a, where, alo, ahi, blo, bhi) {
  let best = { at: alo, to: blo, size: 0 }
  let lengths = new Map() // of the run that ends at a place of b and at the token of a before this one
  for (let i = alo; i < ahi; i++) {
    const next = new Map()
    for (const j of where.get(a[i]) ?? []) {
      if (j < blo || j >= bhi) continue
      const size = (lengths.get(j - 1) ?? 0) + 1
      next.set(j, size)
      if (size > best.size) best = { at: i - size + 1, to: j - size + 1, size }
    }
    lengths = next
  }
  return best
}
