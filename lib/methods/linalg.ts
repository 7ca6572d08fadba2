/**
 * Matrix decompositions for the initialization of adapters, in 64-bit floats.
 *
 * @module
 */
import {
  EigenvalueDecomposition,
  inverse,
  LuDecomposition,
  Matrix,
  pseudoInverse,
  QrDecomposition,
} from "ml-matrix";
import { toFloat32 } from "../tensor/convert.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { createTorchRandom } from "./torch-random.ts";

/** A matrix in row-major order. */
export interface FlatMatrix {
  /** Rows. */
  readonly rows: number;
  /** Columns. */
  readonly columns: number;
  /** The elements. */
  readonly data: Float64Array;
}

/** The leading part of a singular value decomposition: the matrix is about `uᵀ · diag(s) · v`. */
export interface LeadingSvd {
  /** Left singular vectors as rows [k, rows]. */
  readonly u: FlatMatrix;
  /** Singular values, largest first [k]. */
  readonly s: Float64Array;
  /** Right singular vectors as rows [k, columns]; a row is zero where its singular value is. */
  readonly v: FlatMatrix;
}

/** A matrix over these elements, which become 64-bit floats. */
export function flatMatrix(
  data: ArrayLike<number>,
  shape: { readonly rows: number; readonly columns: number },
): FlatMatrix {
  const { rows, columns } = shape;
  return { rows, columns, data: data instanceof Float64Array ? data : Float64Array.from(data) };
}

/** The matrix that a tensor holds. */
export async function matrixOf(stored: Tensor): Promise<FlatMatrix> {
  const [rows, ...rest] = stored.shape;
  return flatMatrix(await toFloat32(stored), { rows, columns: sizeOf(rest) });
}

/** A matrix as a tensor, in f32. */
export function matrixTensor({ rows, columns, data }: FlatMatrix): Tensor {
  return tensor(Float32Array.from(data), { shape: [rows, columns] });
}

/** Each row times its factor. */
export function scaledRows(m: FlatMatrix, factors: ArrayLike<number>): FlatMatrix {
  return { ...m, data: m.data.map((x, i) => x * factors[Math.floor(i / m.columns)]) };
}

/** Rows become columns. */
export function transposed({ rows, columns, data }: FlatMatrix): FlatMatrix {
  const out = new Float64Array(data.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j];
  }
  return { rows: columns, columns: rows, data: out };
}

/** `a · bᵀ`: all dot products of the rows of two matrices. */
export function rowProducts(a: FlatMatrix, b: FlatMatrix): FlatMatrix {
  const { rows: m, columns: k, data: x } = a;
  const { rows: n, data: y } = b;
  const out = new Float64Array(m * n);
  // Two rows by two rows at once, so that each element that is read counts twice; an odd last row
  // is paired with itself.
  for (let i = 0; i < m; i += 2) {
    const i0 = i * k, i1 = Math.min(i + 1, m - 1) * k;
    for (let j = 0; j < n; j += 2) {
      const j0 = j * k, j1 = Math.min(j + 1, n - 1) * k;
      let s00 = 0, s01 = 0, s10 = 0, s11 = 0;
      for (let p = 0; p < k; p++) {
        const x0 = x[i0 + p], x1 = x[i1 + p], y0 = y[j0 + p], y1 = y[j1 + p];
        s00 += x0 * y0;
        s01 += x0 * y1;
        s10 += x1 * y0;
        s11 += x1 * y1;
      }
      out[i * n + j] = s00;
      if (j + 1 < n) out[i * n + j + 1] = s01;
      if (i + 1 < m) {
        out[(i + 1) * n + j] = s10;
        if (j + 1 < n) out[(i + 1) * n + j + 1] = s11;
      }
    }
  }
  return { rows: m, columns: n, data: out };
}

/** `a · b` */
export function matrixProduct(a: FlatMatrix, b: FlatMatrix): FlatMatrix {
  return rowProducts(a, transposed(b));
}

/** The first rows of a matrix, as a view. */
export function firstRows(a: FlatMatrix, rows: number): FlatMatrix {
  return { rows, columns: a.columns, data: a.data.subarray(0, rows * a.columns) };
}

/**
 * Orthonormal columns that span those of a matrix with at least as many rows as columns: Q of its
 * QR decomposition, with LAPACK's signs, [rows, columns].
 */
export function orthonormalColumns(a: FlatMatrix): FlatMatrix {
  const { rows, columns } = a;
  const q =
    new QrDecomposition(Matrix.from1DArray(rows, columns, a.data as never)).orthogonalMatrix;
  // In a square matrix the last column has nothing below its diagonal, and LAPACK does not reflect
  // it.
  if (rows === columns) {
    for (let i = 0; i < rows; i++) q.set(i, columns - 1, -q.get(i, columns - 1));
  }
  return flatMatrix(Float64Array.from(q.to1DArray()), { rows, columns });
}

/**
 * The first `rank` columns of Q [rows, rank] and rows of R [rank, columns] of a QR decomposition,
 * with LAPACK's signs.
 *
 * @param a Any matrix.
 * @param rank At most the smaller of its dimensions.
 */
export function leadingQr(
  a: FlatMatrix,
  rank: number,
): { readonly q: FlatMatrix; readonly r: FlatMatrix } {
  // They depend on the first columns alone.
  const columns = flatMatrix(firstRows(transposed(a), rank).data, { rows: rank, columns: a.rows });
  const q = orthonormalColumns(transposed(columns));
  return { q, r: matrixProduct(transposed(q), a) };
}

function boxed({ rows, columns, data }: FlatMatrix): Matrix {
  return Matrix.from1DArray(rows, columns, data as never);
}

function unboxed(a: Matrix): FlatMatrix {
  return flatMatrix(Float64Array.from(a.to1DArray()), { rows: a.rows, columns: a.columns });
}

/** `a⁻¹` */
export function inverted(a: FlatMatrix): FlatMatrix {
  return unboxed(inverse(boxed(a)));
}

/** `a⁻¹ · b`, or where `a` has no inverse, with its pseudoinverse. */
export function solved(a: FlatMatrix, b: FlatMatrix): FlatMatrix {
  const lu = new LuDecomposition(boxed(a));
  return unboxed(
    lu.isSingular() ? pseudoInverse(boxed(a), 1e-6).mmul(boxed(b)) : lu.solve(boxed(b)),
  );
}

/** All eigenvectors of a symmetric matrix as rows, those of the smallest eigenvalues first. */
export function symmetricVectors(a: FlatMatrix): FlatMatrix {
  const { eigenvectorMatrix } = new EigenvalueDecomposition(boxed(a), { assumeSymmetric: true });
  return transposed(unboxed(eigenvectorMatrix));
}

/** Block size, which is also how many equal singular values are told apart. */
const BLOCK = 4;

/**
 * The largest singular values and their vectors, as accurately as 32-bit floats can show.
 *
 * They come from the eigenvectors of `a · aᵀ` (or `aᵀ · a`, whichever is smaller): for few of a
 * large matrix by the block Lanczos method with full reorthogonalization (Golub and Underwood,
 * 1977), else all of them.
 *
 * @param a Any matrix.
 * @param rank How many, at most the smaller dimension.
 */
export function leadingSvd(a: FlatMatrix, rank: number): LeadingSvd {
  if (a.rows > a.columns) {
    const { u, s, v } = leadingSvd(transposed(a), rank);
    return { u: v, s, v: u };
  }
  const u = (a.rows > 16 * BLOCK && rank * 16 <= a.rows ? lanczos(a, rank) : undefined) ??
    eigenvectors(rowProducts(a, a), rank).vectors;
  return withRightVectors(a, u);
}

/**
 * The smallest singular values, largest first, and their vectors. They come from all eigenvectors
 * of `a · aᵀ` or `aᵀ · a`, whichever is smaller.
 *
 * @param a Any matrix.
 * @param rank How many, at most the smaller dimension.
 */
export function trailingSvd(a: FlatMatrix, rank: number): LeadingSvd {
  if (a.rows > a.columns) {
    const { u, s, v } = trailingSvd(transposed(a), rank);
    return { u: v, s, v: u };
  }
  return withRightVectors(a, eigenvectors(rowProducts(a, a), rank, a.rows - rank).vectors);
}

/** Singular values and right singular vectors, from left ones as rows. */
function withRightVectors(a: FlatMatrix, u: FlatMatrix): LeadingSvd {
  const v = matrixProduct(u, a);
  const s = new Float64Array(u.rows);
  for (let i = 0; i < u.rows; i++) {
    const row = v.data.subarray(i * v.columns, (i + 1) * v.columns);
    s[i] = norm(row);
    if (s[i] > 0) { for (let j = 0; j < row.length; j++) row[j] /= s[i]; }
  }
  return { u, s, v };
}

/**
 * Eigenvalues of a symmetric matrix, largest first, and the vectors of `count` of them from the
 * `from`-th on, as rows.
 */
function eigenvectors(
  a: FlatMatrix,
  count: number,
  from: number = 0,
): { readonly values: Float64Array; readonly vectors: FlatMatrix } {
  const n = a.rows;
  const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(
    Matrix.from1DArray(n, n, a.data as never),
    { assumeSymmetric: true },
  );
  const vectors = new Float64Array(count * n);
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < n; j++) vectors[i * n + j] = eigenvectorMatrix.get(j, n - 1 - from - i);
  }
  return {
    values: Float64Array.from(realEigenvalues).reverse(),
    vectors: { rows: count, columns: n, data: vectors },
  };
}

/**
 * Leading eigenvectors of `a · aᵀ` as rows; `undefined` where finding all of them at once is
 * cheaper.
 */
function lanczos(a: FlatMatrix, rank: number): FlatMatrix | undefined {
  const n = a.rows, limit = n >> 1;
  const random = createTorchRandom(0);
  const columns = transposed(a);
  const basis = new Float64Array((limit + BLOCK) * n);
  const projected: number[][] = [];
  const rows = (from: number, count: number): FlatMatrix => ({
    rows: count,
    columns: n,
    data: basis.subarray(from * n, (from + count) * n),
  });
  rows(0, BLOCK).data.set(random.normal(BLOCK * n));
  orthonormalize(basis, { n, from: 0, random });
  for (let size = BLOCK; size + BLOCK <= limit; size += BLOCK) {
    const last = rows(size - BLOCK, BLOCK);
    const image = rowProducts(rowProducts(last, columns), a);
    const coefficients = rowProducts(image, rows(0, size));
    for (let i = 0; i < BLOCK; i++) {
      projected.push([...coefficients.data.subarray(i * size, (i + 1) * size)]);
    }
    rows(size, BLOCK).data.set(image.data);
    const coupling = orthonormalize(basis, { n, from: size, random });
    if (size < rank + BLOCK || size % (2 * BLOCK)) continue;
    const small = new Float64Array(size * size);
    projected.forEach((row, i) =>
      row.forEach((x, j) => small[i * size + j] = small[j * size + i] = x)
    );
    const { values, vectors } = eigenvectors({ rows: size, columns: size, data: small }, rank);
    // What `a · aᵀ` does to an approximate vector beyond scaling it lies in the next block alone.
    const residuals = rowProducts(
      transposed(coupling),
      {
        rows: rank,
        columns: BLOCK,
        data: Float64Array.from(
          { length: rank * BLOCK },
          (_, i) => vectors.data[Math.floor(i / BLOCK) * size + size - BLOCK + i % BLOCK],
        ),
      },
    );
    const residual = norm(residuals.data);
    const gap = values[rank - 1] - values[rank];
    if (residual <= Math.max(1e-8 * gap, 1e-14 * values[0])) {
      return matrixProduct(vectors, rows(0, size));
    }
  }
  return undefined;
}

/**
 * Makes a block of rows orthonormal, and orthogonal to all rows before it.
 *
 * @returns How the rows were made of the new ones, [row, new row].
 */
function orthonormalize(
  basis: Float64Array,
  options: {
    readonly n: number;
    readonly from: number;
    readonly random: { normal(n: number): Float32Array };
  },
): FlatMatrix {
  const { n, from, random } = options;
  const coupling = new Float64Array(BLOCK * BLOCK);
  const row = (i: number) => basis.subarray(i * n, (i + 1) * n);
  for (let i = 0; i < BLOCK; i++) {
    const x = row(from + i);
    const before = norm(x);
    // The second time removes what rounding left of the first.
    const remove = (record: boolean) => {
      for (let pass = 0; pass < 2; pass++) {
        for (let j = 0; j < from + i; j++) {
          const y = row(j);
          let c = 0;
          for (let p = 0; p < n; p++) c += x[p] * y[p];
          for (let p = 0; p < n; p++) x[p] -= c * y[p];
          if (record && j >= from) coupling[i * BLOCK + j - from] += c;
        }
      }
    };
    remove(true);
    let length = norm(x);
    if (length > 1e-12 * before) {
      coupling[i * BLOCK + i] = length;
    } else {
      // Nothing new: go on with any other direction.
      x.set(random.normal(n));
      remove(false);
      length = norm(x);
    }
    for (let p = 0; p < n; p++) x[p] /= length;
  }
  return { rows: BLOCK, columns: BLOCK, data: coupling };
}

/**
 * An approximate leading singular value decomposition from a random start (Halko et al., 2009,
 * arXiv:0909.4061, algorithms 4.4 and 5.1), as `torch.svd_lowrank` computes it.
 *
 * @param a Any matrix.
 * @param options `start` holds normal numbers [min(rows, columns), rank]; `iterations` is how often
 * the start is refined; `svd` decomposes what is left.
 */
export function approximateSvd(
  a: FlatMatrix,
  options: {
    readonly start: FlatMatrix;
    readonly iterations: number;
    readonly svd?: typeof leadingSvd;
  },
): LeadingSvd {
  if (a.rows < a.columns) {
    const { u, s, v } = approximateSvd(transposed(a), options);
    return { u: v, s, v: u };
  }
  const { start, iterations, svd = leadingSvd } = options;
  const back = transposed(a);
  // Each product is made from the rows of one side and the columns of the other.
  let q = orthonormalColumns(rowProducts(a, transposed(start)));
  for (let i = 0; i < iterations; i++) {
    q = orthonormalColumns(rowProducts(back, transposed(q)));
    q = orthonormalColumns(rowProducts(a, transposed(q)));
  }
  const { u, s, v } = svd(rowProducts(transposed(q), back), start.columns);
  return { u: rowProducts(u, q), s, v };
}

/** The length of a vector; of a matrix its Frobenius norm. */
export function norm(x: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * x[i];
  return Math.sqrt(sum);
}
