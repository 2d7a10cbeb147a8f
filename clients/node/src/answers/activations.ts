/** Arrays of activations from the raw little-endian buffers of the wire: typed arrays of memory of their own. */

import { endianness } from 'node:os'
import type { DenseActivations, SparseActivations } from '../gen/saeserve/v1/feature_service_pb.js'
import { malformed } from '../transport/errors.js'
import { shortest } from './json.js'

/** Activations of chosen features, or of a whole neuron source: rows are tokens. */
export class Matrix {
  constructor(
    readonly rows: number,
    readonly columns: number,
    /** `rows · columns` numbers, row by row. */
    readonly data: Float32Array,
  ) {}

  /** One row, a view. */
  row(row: number): Float32Array {
    return this.data.subarray(row * this.columns, (row + 1) * this.columns)
  }

  /** One column, a copy. */
  column(column: number): Float32Array {
    return Float32Array.from({ length: this.rows }, (_, row) => this.data[row * this.columns + column]!)
  }

  /** Rows from `start` to `end`, a view. */
  slice(start: number, end: number): Matrix {
    return new Matrix(end - start, this.columns, this.data.subarray(start * this.columns, end * this.columns))
  }

  toJSON() {
    const data = Array.from({ length: this.rows }, (_, row) => Array.from(this.row(row), shortest))
    return { rows: this.rows, columns: this.columns, data }
  }
}

/** Activations of a source in compressed sparse row form: rows are tokens; only values > 0 are stored. */
export class Csr {
  constructor(
    readonly rows: number,
    /** The source's features. */
    readonly columns: number,
    /** `rows + 1` numbers: row r holds the entries from indptr[r] to indptr[r + 1]. */
    readonly indptr: Uint32Array,
    /** Feature of each entry, ascending within a row. */
    readonly indices: Uint32Array,
    /** Activation of each entry, > 0. */
    readonly data: Float32Array,
  ) {}

  /** Which features fire on a token, and how strongly: views. */
  row(row: number): { indices: Uint32Array; data: Float32Array } {
    const [start, end] = [this.indptr[row]!, this.indptr[row + 1]!]
    return { indices: this.indices.subarray(start, end), data: this.data.subarray(start, end) }
  }

  /** Activation of one feature on each token. */
  column(feature: number): Float32Array {
    return Float32Array.from({ length: this.rows }, (_, row) => {
      const { indices, data } = this.row(row)
      return data[indices.indexOf(feature)] ?? 0
    })
  }

  /** Rows from `start` to `end`; the entries are views. */
  slice(start: number, end: number): Csr {
    const first = this.indptr[start]!
    const [indices, data] = [this.indices, this.data].map((all) => all.subarray(first, this.indptr[end]))
    const indptr = this.indptr.slice(start, end + 1).map((entry) => entry - first)
    return new Csr(end - start, this.columns, indptr, indices as Uint32Array, data as Float32Array)
  }

  /** All features, zeros too. */
  toMatrix(): Matrix {
    const all = new Float32Array(this.rows * this.columns)
    for (let row = 0; row < this.rows; row++) {
      for (let entry = this.indptr[row]!; entry < this.indptr[row + 1]!; entry++) {
        all[row * this.columns + this.indices[entry]!] = this.data[entry]!
      }
    }
    return new Matrix(this.rows, this.columns, all)
  }

  toJSON() {
    const [indptr, indices] = [[...this.indptr], [...this.indices]]
    return { rows: this.rows, columns: this.columns, indptr, indices, data: Array.from(this.data, shortest) }
  }
}

/** Throws Internal (MALFORMED_ANSWER) for a buffer of another size than it says. */
export function dense(block: DenseActivations): Matrix {
  const data = new Float32Array(aligned(block.data, 4))
  if (data.length !== block.rows * block.columns) {
    throw malformed(`${data.length} activations for ${block.rows} rows of ${block.columns}`)
  }
  return new Matrix(block.rows, block.columns, data)
}

/** Throws Internal (MALFORMED_ANSWER) for buffers that do not fit together. */
export function sparse(block: SparseActivations): Csr {
  const wide = new BigInt64Array(aligned(block.indptr, 8))
  const indptr = Uint32Array.from(wide, Number)
  const indices = new Uint32Array(aligned(block.indices, 4))
  const data = new Float32Array(aligned(block.data, 4))
  const rising = wide.every((entry, row) => entry >= (wide[row - 1] ?? 0n))
  const entries = wide.at(-1)
  if (!rising || wide[0] !== 0n || wide.length !== block.rows + 1 || entries !== BigInt(data.length)) {
    throw malformed(`indptr of ${wide.length} numbers for ${block.rows} rows and ${data.length} activations`)
  }
  if (indices.length !== data.length || indices.some((feature) => feature >= block.columns)) {
    throw malformed(`${indices.length} indices below ${block.columns} for ${data.length} activations`)
  }
  return new Csr(block.rows, block.columns, indptr, indices, data)
}

/** The rows of several blocks of one source, one after another. */
export function joined(parts: readonly Csr[]): Csr {
  const [first] = parts
  if (parts.length === 1) return first!
  const rows = parts.reduce((sum, part) => sum + part.rows, 0)
  const entries = parts.reduce((sum, part) => sum + part.data.length, 0)
  const made = new Csr(
    rows,
    first!.columns,
    new Uint32Array(rows + 1),
    new Uint32Array(entries),
    new Float32Array(entries),
  )
  let [row, entry] = [0, 0]
  for (const part of parts) {
    made.indptr.set(
      part.indptr.map((one) => one + entry),
      row,
    )
    made.indices.set(part.indices, entry)
    made.data.set(part.data, entry)
    row += part.rows
    entry += part.data.length
  }
  return made
}

/** The rows of several blocks, one after another. */
export function stacked(parts: readonly Matrix[]): Matrix {
  const [first] = parts
  if (parts.length === 1) return first!
  const rows = parts.reduce((sum, part) => sum + part.rows, 0)
  const made = new Matrix(rows, first!.columns, new Float32Array(rows * first!.columns))
  let row = 0
  for (const part of parts) {
    made.data.set(part.data, row * part.columns)
    row += part.rows
  }
  return made
}

/** A copy of memory of its own: within a message a number may begin at any byte, which typed arrays refuse. */
function aligned(bytes: Uint8Array, size: number): ArrayBuffer {
  if (bytes.length % size !== 0) throw malformed(`a buffer of ${bytes.length} bytes for numbers of ${size}`)
  const own = new Uint8Array(bytes.length)
  own.set(bytes)
  if (endianness() === 'BE') {
    for (let start = 0; start < own.length; start += size) own.subarray(start, start + size).reverse()
  }
  return own.buffer
}
