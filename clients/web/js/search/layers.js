// Layers as people write them: `1-3`, `0,2,5-7`.

/** The layers of a written list, ascending; null where it is none. */
export function parseLayers(text) {
  const layers = new Set()
  for (const part of text
    .split(',')
    .map((one) => one.trim())
    .filter(Boolean)) {
    const found = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(part)
    if (!found || Number(found[2] ?? found[1]) < Number(found[1])) return null
    for (let layer = Number(found[1]); layer <= Number(found[2] ?? found[1]); layer++) layers.add(layer)
  }
  return [...layers].sort((a, b) => a - b)
}

/** Runs of neighbours: `[{first, last}]`, as the contract has them. */
export function layerRanges(layers) {
  const ranges = []
  for (const layer of layers) {
    const run = ranges.at(-1)
    if (run && run.last === layer - 1) run.last = layer
    else ranges.push({ first: layer, last: layer })
  }
  return ranges
}

/** `1-3,5`. */
export function writeLayers(layers) {
  return layerRanges(layers)
    .map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`))
    .join(',')
}
