/** Arrays by source, found by any name that the source has been called by. */

/** By source id, in the order asked for. Also found in any case, and by the alias it was asked for by. */
export class BySource<V> extends Map<string, V> {
  readonly #aliases: ReadonlyMap<string, string>

  constructor(blocks: Iterable<readonly [string, V]>, aliases: ReadonlyMap<string, string>) {
    super(blocks)
    this.#aliases = aliases
  }

  override get(source: string): V | undefined {
    const name = source.toLowerCase()
    return super.get(name) ?? super.get(this.#aliases.get(name) ?? name)
  }

  override has(source: string): boolean {
    return this.get(source) !== undefined
  }
}

/** What the sources of an answer were called by in the request, whose order they have: ids by lower-case name. */
export function aliases(asked: readonly string[], ids: readonly string[]): ReadonlyMap<string, string> {
  const fits = asked.length === ids.length && asked.every((name, place) => name === ids[place] || !ids.includes(name))
  return new Map(fits ? asked.map((name, place) => [name, ids[place]!]) : [])
}
