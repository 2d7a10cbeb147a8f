/** Every call, answered by a running server. */

import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { Client, ContrastSide, FeatureKind, featureName, type FeatureResult, Match, NotFound } from 'saeserve'
import { assertClose, needsServer, refusal, TARGET } from './support.js'

const TEXT = 'My favorite color is red.'
const RED = '0-DEMO:1633'

describe('a running server', needsServer, () => {
  const client = new Client(TARGET || undefined, { clientName: 'node tests' })
  after(() => client.close())

  test('search: features, tokens and facts that are always there', async () => {
    const found = await client.search(TEXT, { sort: 'red', limit: 3 })
    assert.equal(found.results.length, 3)
    assert.deepEqual(found.sortPositions, [5])
    const hit = found.results.find((one) => one.facts.name === RED)
    assert.ok(hit)
    assert.equal(found.tokens[hit.maxPosition]?.display, ' red')
    assert.equal(hit.match, Match.EXACT)
    assert.equal(hit.activations.length, found.tokens.length)
    assert.ok(hit.facts.usualTokens.some(({ token }) => token.display === ' red'))
    assert.match(found.callInfo.requestId, /^[0-9a-f]{16}$/)
  })

  test('search: filters, rankings, by token, token ids', async () => {
    const neurons = await client.search(TEXT, { kinds: 'neuron', layers: ['1-2'], limit: 50 })
    assert.ok(neurons.results.every(({ facts }) => facts.kind === FeatureKind.NEURON && [1, 2].includes(facts.layer)))
    assert.deepEqual(neurons.sourcesConsidered, ['1', '2'])
    const rare = await client.search(TEXT, { maxDensity: 0.01, excludeLayers: '0,2-3', ranking: 'surprisal' })
    assert.ok(rare.results.every(({ facts }) => facts.density! <= 0.01 && facts.layer === 1))
    assert.ok(rare.results.every(({ tokensAtLeast }) => tokensAtLeast! >= 1))
    const { tokens } = await client.tokenize(TEXT)
    const rows = await client.search(
      tokens.map(({ id }) => id),
      { byToken: true, limit: 2 },
    )
    assert.deepEqual(
      rows.tokenResults.map(({ features }) => features.length),
      tokens.map(() => 2),
    )
    const [first] = rows.tokenResults
    assert.ok(rows.features[first!.features[0]!]!.name)
  })

  test('encode: chosen features, dense, whatever names them', async () => {
    const { results } = await client.search(TEXT, { sort: 'red', limit: 2 })
    const texts = ['She wore a crimson dress.', 'red', [373]]
    const encoded = await client.encode(texts, {
      features: [results[0]!, results[1]!.facts, { source: '1-DEMO', index: 5 }],
    })
    assert.equal(encoded.texts.length, 3)
    assert.deepEqual(
      encoded.textOffsets.slice(1),
      [...encoded.textOffsets.slice(1)].sort((a, b) => a - b),
    )
    assert.equal(encoded.dense!.columns, 3)
    assert.equal(encoded.dense!.data.byteOffset % 4, 0)
    const crimson = encoded.column(RED)
    assert.equal(crimson.length, encoded.dense!.rows)
    const peak = crimson.indexOf(Math.max(...crimson.slice(0, encoded.textOffsets[1])))
    assert.match(encoded.texts[0]!.tokens[peak]!.display, /crims/)
    // Both are the same token.
    assertClose(encoded.texts[1]!.dense!.row(0), encoded.texts[2]!.dense!.row(0))
    assert.throws(() => encoded.column('0-demo:1'), RangeError)
  })

  test('encode: all latents of a source, sparse', async () => {
    const texts = [TEXT, 'She wore a crimson dress.']
    const { sparse, texts: parts, textOffsets } = await client.encode(texts, { sources: ['0-DEMO', '1-demo'] })
    assert.deepEqual([...sparse.keys()], ['0-demo', '1-demo'])
    const block = sparse.get('0-demo')!
    const some = await client.encode(texts, { features: [RED, '0-demo:248'] })
    assertClose(block.column(1633), some.column(RED))
    assertClose(block.toMatrix().column(248), some.column('0-demo:248'))
    const second = parts[1]!.sparse.get('0-demo')!
    assert.equal(second.rows, textOffsets[2]! - textOffsets[1]!)
    assert.deepEqual(second.column(1633), block.column(1633).slice(textOffsets[1]))
    const { indices, data } = second.row(0)
    assert.ok(indices.length > 0 && data.every((one) => one > 0))
  })

  test('top activations: a page, and all of them', async () => {
    const page = await client.topActivations(RED, { pageSize: 2, diversity: 'token' })
    assert.equal(page.records.length, 2)
    assert.ok(page.records[0]!.standsFor > 1)
    assert.equal(page.facts.name, RED)
    assert.ok(page.nextPageToken)
    const all: number[] = []
    for await (const record of client.iterTopActivations(RED, { pageSize: 7 })) all.push(record.maxActivation)
    assert.ok(all.length > 7)
    assert.deepEqual(
      all,
      [...all].sort((a, b) => b - a),
    )
    const sample = await client.topActivations(RED, { group: 'quantiles', pageSize: 30 })
    assert.ok(sample.records.some(({ maxActivation }) => maxActivation < all.at(-1)!))
  })

  test('sources, one feature, tokens, the server', async () => {
    const { sources } = await client.listSources()
    assert.ok(sources.some(({ id }) => id === '0-demo'))
    const feature = await client.getFeature({ source: '0-DEMO', index: 1633 })
    assert.equal(feature.facts.name, RED)
    assert.equal(feature.source.id, '0-demo')
    assert.ok(feature.statistics!.fires > 1000n)
    const { tokens } = await client.tokenize('Ünïcode 🎈')
    assert.equal(Buffer.concat(tokens.map(({ piece }) => piece)).toString(), 'Ünïcode 🎈')
    const info = await client.serverInfo()
    assert.equal(info.model.nLayers, 4)
    assert.ok(info.limits.maxTokens > 100)
    assert.equal((await client.waitReady()).version, info.version)
  })

  test('similar features', async () => {
    const { similar, featuresCompared } = await client.similar(RED, { limit: 3, excludeFeatures: RED })
    assert.equal(similar.length, 3)
    assert.ok(similar[0]!.value <= 1 && similar[0]!.value >= similar[1]!.value)
    assert.ok(featuresCompared > 1000n)
    const firing = await client.similar(RED, { by: 'firing', kinds: 'latent', limit: 1 })
    assert.ok(firing.similar[0]!.positions! > 0)
  })

  test('what a feature reads and writes, whatever points there, and the activations along it', async () => {
    const { encoder, decoder } = await client.vectors(RED)
    assert.equal(decoder!.values.length, 128)
    const alone = await client.vectors(RED, { side: 'encoder' })
    assert.deepEqual([alone.encoder, alone.decoder], [encoder, undefined])
    const zero = { hookName: encoder!.hookName, vector: new Float32Array(128) }
    const { dense } = await client.encode(TEXT, { features: RED, projections: [encoder!, zero] })
    const [fires, along, nothing] = [0, 1, 2].map((column) => dense!.column(column))
    assert.equal(along!.indexOf(Math.max(...along!)), fires!.indexOf(Math.max(...fires!)))
    assert.ok(along!.some((one) => one < 0) && nothing!.every((one) => one === 0))
    const { similar, facts } = await client.similar(decoder!.values, { limit: 1 })
    assert.deepEqual([similar[0]!.facts.name, facts], [RED, undefined])
    assert.ok(similar[0]!.value > 0.999)
    const { value: item } = await client.encodeStream([TEXT], { projections: [encoder!] }).next()
    assertClose(item!.result!.dense!.data, along!)
    assert.equal(
      (await refusal(client.encode(TEXT, { projections: [{ ...zero, vector: [1] }] }))).name,
      'InvalidArgument',
    )
  })

  test('a BOS that ranks', async () => {
    const found = await client.search(TEXT, { rankBos: true, sortBos: true, limit: 3 })
    assert.equal(found.bosIncluded, true)
    assert.deepEqual(found.sortPositions, [0])
    assert.ok(found.results.every(({ value, activations }) => value === activations[0]))
  })

  test('contrast: a stream of texts, one answer', async () => {
    const colours = ['red', 'blue', 'green', 'black', 'white'].map((one) => `The hat is ${one}.`)
    const numbers = ['six', 'two', 'nine', 'four', 'ten'].map((one) => `The count is ${one}.`)
    const found = await client.contrast(colours, numbers, { limit: 4, sources: '0-demo' })
    assert.deepEqual([found.textsA, found.textsB], [5, 5])
    assert.ok(found.results.some(({ side, textsA, textsB }) => side === ContrastSide.A && textsA === 5 && textsB === 0))
    assert.equal((await refusal(client.contrast(['one'], numbers))).reason, 'TOO_FEW_TEXTS')
  })

  test('search of explanations, where none are imported', async () => {
    assert.equal((await refusal(client.searchExplanations('colour'))).reason, 'RECORDS_REQUIRED')
  })

  test('what is refused: class, reason, field, request id', async () => {
    const unknown = await refusal(client.search('red', { sources: '9-demo', requestId: 'node-1' }))
    assert.ok(unknown instanceof NotFound)
    assert.deepEqual([unknown.status, unknown.reason, unknown.requestId], ['NOT_FOUND', 'SOURCE_NOT_FOUND', 'node-1'])
    assert.match(unknown.message, /did you mean 3-demo/)
    const empty = await refusal(client.encode(['red', ''], { sources: '0-demo' }))
    assert.equal(empty.name, 'InvalidArgument')
    assert.equal(empty.reason, 'TEXT_EMPTY')
    assert.match(empty.violations[0]!.field, /inputs\[1\]/)
  })

  test('as JSON an answer is the ProtoJSON of the contract', async () => {
    const found = JSON.parse(JSON.stringify(await client.search(TEXT, { limit: 1, sources: '0-demo' })))
    assert.equal(found.featuresConsidered, '2048') // 64 bits: a string
    assert.equal(found.results[0].match, 'MATCH_EXACT')
    assert.equal(found.truncated, false)
    const encoded = JSON.parse(JSON.stringify(await client.encode('red', { sources: '0-demo' })))
    assert.deepEqual(encoded.sparse[0].indptr, [0, encoded.sparse[0].data.length])
    assert.equal(encoded.texts[0].tokens[0].piece, Buffer.from('red').toString('base64'))
  })

  test('so is each part of it: a hit, a record, what is said of the call', async () => {
    const parsed = (part: unknown) => JSON.parse(JSON.stringify(part))
    const found = await client.search(TEXT, { limit: 1, sources: '0-demo' })
    assert.deepEqual(parsed(found.results), parsed(found).results)
    assert.match(parsed(found.callInfo).totalMicros, /^\d+$/)
    const page = await client.topActivations(RED, { pageSize: 1 })
    for await (const record of client.iterTopActivations(RED, { pageSize: 1 })) {
      assert.match(parsed(record).textIndex, /^\d+$/)
      assert.deepEqual(parsed(record), parsed(page.records[0]))
      break
    }
    const encoded = await client.encode('red', { features: RED })
    assert.deepEqual(parsed(encoded.callInfo), parsed(encoded).callInfo)
    assert.deepEqual(parsed(encoded.texts[0]!.tokens[0]), parsed(encoded).texts[0].tokens[0])
  })

  test('as JSON a float32 is the shortest number that reads back as it', async () => {
    const found = await client.search(TEXT, { limit: 5 })
    const printed = JSON.parse(JSON.stringify(found)).results.flatMap(({ activations }: FeatureResult) => activations)
    assert.deepEqual(
      printed.map(Math.fround),
      found.results.flatMap(({ activations }) => activations),
    )
    assert.ok(printed.some((one: number) => one !== 0))
    for (const one of printed) assert.equal(one, Number(one.toPrecision(9)))
  })

  test('names of features', () => {
    assert.equal(featureName({ source: '0-mlp-oai', index: 7 }), '0-MLP-OAI:7')
    assert.equal(featureName(' 2:553 '), '2:553')
  })
})
