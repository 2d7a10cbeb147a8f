/** What becomes of Encode's answer: the names that sources are found by, and its JSON. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { create } from '@bufbuild/protobuf'
import type * as grpc from '@grpc/grpc-js'
import { Client, EncodeResponseSchema, type EncodeStreamRequest, EncodeStreamResponseSchema } from 'saeserve'
import { serve, using } from './support.js'

const DATA = new Float32Array([0.1, 1 / 3, 16777216, 1.1754944e-38, NaN, -0.1])
const bytes = (numbers: Float32Array | Uint32Array | BigInt64Array) => new Uint8Array(numbers.buffer)
/** One token on which feature 5 of 8 fires. */
const block = (source: string, value: number) => ({
  source,
  rows: 1,
  columns: 8,
  indptr: bytes(new BigInt64Array([0n, 1n])),
  indices: bytes(new Uint32Array([5])),
  data: bytes(new Float32Array([value])),
})

test('a source is found by its id and by the alias that was asked for, in any case', async (t) => {
  const sparse = [block('0-demo', 2), block('1-demo', 3)]
  const fake = await serve(t, {
    encode: (_, done) =>
      done(null, create(EncodeResponseSchema, { callInfo: {}, texts: [{}], textOffsets: [0, 1], sparse })),
  })
  await using(new Client(fake.target), async (client) => {
    const encoded = await client.encode('red', { sources: ['First', '1-DEMO'] })
    for (const name of ['first:5', 'FIRST:5', '0-demo:5']) assert.deepEqual([...encoded.column(name)], [2])
    assert.deepEqual([...encoded.column('1-demo:5')], [3])
    assert.throws(() => encoded.column('second:5'), RangeError)
    assert.equal(encoded.texts[0]!.sparse.get('FIRST')!.data[0], 2)
    assert.deepEqual([encoded.sparse.has('First'), encoded.sparse.has('second')], [true, false])
    assert.deepEqual([...encoded.sparse.keys()], ['0-demo', '1-demo'])
    // Names that do not fit the answer stand for nothing.
    const fewer = await client.encode('red', { sources: 'first' })
    assert.equal(fewer.sparse.get('first'), undefined)
  })
})

test('so it is in a stream, for neurons too', async (t) => {
  const fake = await serve(t, {
    encodeStream: (call: grpc.ServerDuplexStream<EncodeStreamRequest, unknown>) => {
      call.on('end', () => call.end())
      call.on('data', ({ message }: EncodeStreamRequest) => {
        if (message.case !== 'item') return
        const neurons = { source: '2', rows: 1, columns: 1, data: bytes(new Float32Array([4])) }
        for (const value of [
          { text: {}, rows: { case: 'dense' as const, value: neurons } },
          { last: true, rows: { case: 'sparse' as const, value: block('0-demo', 2) } },
        ]) {
          const answer = { case: 'chunk' as const, value }
          call.write(create(EncodeStreamResponseSchema, { callInfo: {}, sequence: message.value.sequence, answer }))
        }
      })
    },
  })
  const { value: item } = await using(new Client(fake.target), (client) =>
    client.encodeStream(['red'], { sources: ['2-mlp', 'First'] }).next(),
  )
  const { neurons, sparse } = item!.result!
  assert.deepEqual([neurons.get('2-MLP')!.data[0], neurons.get('2')!.data[0]], [4, 4])
  assert.deepEqual([sparse.get('first')!.data[0], sparse.get('0-demo')!.data[0]], [2, 2])
})

test('as JSON activations are the shortest numbers that read back as the same float32', async (t) => {
  const dense = { rows: 2, columns: 3, data: bytes(DATA) }
  const answer = { callInfo: {}, texts: [{}], textOffsets: [0, 2], dense }
  const fake = await serve(t, { encode: (_, done) => done(null, create(EncodeResponseSchema, answer)) })
  const encoded = await using(new Client(fake.target), (client) =>
    client.encode('red', { features: ['0:1', '0:2', '0:3'] }),
  )
  const data = '[[0.1,0.33333334,16777216],[1.1754944e-38,"NaN",-0.1]]'
  const { dense: whole } = JSON.parse(JSON.stringify(encoded))
  assert.deepEqual(whole, { source: '', rows: 2, columns: 3, data: JSON.parse(data) })
  assert.equal(JSON.stringify(encoded.dense), `{"rows":2,"columns":3,"data":${data}}`)
})
