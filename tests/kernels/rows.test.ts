import { crossEntropyGradKernel, crossEntropyKernel } from "../../kernels/cross-entropy.ts";
import { layerNormKernel, rmsNormKernel } from "../../kernels/norm.ts";
import { softmaxKernel } from "../../kernels/softmax.ts";
import type { Kernel } from "../../kernels/kernel.ts";
import { assertNear, openGpu, randoms } from "./run-kernel.ts";

const FORMS = [{ software: true }, { software: false }] as const;

/** Every case in both forms, for a length that is and one that is not a multiple of 4. */
async function check(
  make: (size: { rows: number; length: number }, form: { software: boolean }) => Kernel,
  data: (size: { rows: number; length: number }) => {
    inputs: readonly ArrayBufferView[];
    expected: ArrayLike<number>;
  },
  options: { epilogue?: "indexed"; lengths?: readonly number[] } = {},
) {
  using gpu = await openGpu(options);
  for (const length of options.lengths ?? [37, 2300]) {
    const size = { rows: 11, length };
    const { inputs, expected } = data(size);
    const wanted = options.epilogue
      ? Float64Array.from(expected, (v, i) => 2 * v + 1 + i % 7)
      : expected;
    for (const form of FORMS) {
      const kernel = make(size, form);
      const y = new Float32Array(await gpu.run(kernel, { inputs, output: wanted.length * 4 }));
      assertNear(y, wanted, { tolerance: 2e-6, what: `${kernel.variant}, rows of ${length}` });
    }
  }
}

function rowsOf(x: Float32Array, length: number): Float32Array[] {
  return Array.from(
    { length: x.length / length },
    (_, i) => x.subarray(i * length, (i + 1) * length),
  );
}

const mean = (x: ArrayLike<number>) => Array.from(x).reduce((a, b) => a + b, 0) / x.length;

function logSum(row: Float32Array): number {
  const top = row.reduce((a, b) => Math.max(a, b));
  return top + Math.log(row.reduce((a, b) => a + Math.exp(b - top), 0));
}

/** Logits that differ by much, so that a sum without the largest element taken off overflows. */
const logits = (count: number) => randoms(count, 5).map((v) => 40 * v + 60);

Deno.test("softmax in both forms", () =>
  check(softmaxKernel, ({ rows, length }) => {
    const x = logits(rows * length);
    return {
      inputs: [x],
      expected: rowsOf(x, length).flatMap((row) => {
        const l = logSum(row);
        return Array.from(row, (v) => Math.exp(v - l));
      }),
    };
  }, { epilogue: "indexed" }));

Deno.test("rmsNorm in both forms", () =>
  check(
    (size, form) => rmsNormKernel({ ...size, epsilon: 1e-3 }, form),
    ({ rows, length }) => {
      const x = randoms(rows * length, 5), weight = randoms(length, 6);
      return {
        inputs: [x, weight],
        expected: rowsOf(x, length).flatMap((row) => {
          const r = 1 / Math.sqrt(mean(row.map((v) => v * v)) + 1e-3);
          return Array.from(row, (v, i) => v * r * weight[i]);
        }),
      };
    },
    { epilogue: "indexed" },
  ));

Deno.test("layerNorm in both forms, where the mean is large", () =>
  check(
    (size, form) => layerNormKernel({ ...size, epsilon: 1e-3 }, form),
    ({ rows, length }) => {
      const x = randoms(rows * length, 5).map((v) => v + 3);
      const weight = randoms(length, 6), bias = randoms(length, 7);
      return {
        inputs: [x, weight, bias],
        expected: rowsOf(x, length).flatMap((row) => {
          const m = mean(row);
          const r = 1 / Math.sqrt(mean(Array.from(row, (v) => (v - m) ** 2)) + 1e-3);
          return Array.from(row, (v, i) => (v - m) * r * weight[i] + bias[i]);
        }),
      };
    },
    { epilogue: "indexed" },
  ));

function labelsOf({ rows, length }: { rows: number; length: number }): Int32Array {
  return Int32Array.from({ length: rows }, (_, i) => i % 4 === 2 ? -100 : (i * 7919) % length);
}

Deno.test("cross-entropy in both forms, with ignored rows", () =>
  check(
    (size, form) => crossEntropyKernel({ ...size, ignored: -100 }, form),
    (size) => {
      const x = logits(size.rows * size.length), labels = labelsOf(size);
      return {
        inputs: [x, labels],
        expected: rowsOf(x, size.length).map((row, i) =>
          labels[i] < 0 ? 0 : logSum(row) - row[labels[i]]
        ),
      };
    },
    { lengths: [37, 49152] },
  ));

Deno.test("the gradient of cross-entropy in both forms, with ignored rows", () =>
  check(
    (size, form) => crossEntropyGradKernel({ ...size, ignored: -100 }, form),
    (size) => {
      const x = logits(size.rows * size.length), labels = labelsOf(size);
      const g = randoms(size.rows, 8);
      return {
        inputs: [x, labels, g],
        expected: rowsOf(x, size.length).flatMap((row, i) => {
          const l = logSum(row);
          return Array.from(
            row,
            (v, j) => labels[i] < 0 ? 0 : (Math.exp(v - l) - (j === labels[i] ? 1 : 0)) * g[i],
          );
        }),
      };
    },
  ));
