/**
 * Cases for block-quantized weights.
 *
 * @module
 */
import { dequantize } from "../../lib/ops/dequantize.ts";
import { gatherQuantized } from "../../lib/ops/gather-quantized.ts";
import { matmulQuantized } from "../../lib/ops/matmul-quantized.ts";
import type { QuantizedValue } from "../../lib/ops/quantized-value.ts";
import type { Value } from "../../lib/ops/value.ts";
import { type Arrays, type Case, noise } from "./cases.ts";
import { at, build, type Nd, product } from "./nd.ts";

interface Format {
  readonly rows: number;
  readonly columns: number;
  readonly bits: 4 | 8;
  readonly block: number;
  readonly offsets: boolean;
}

function formatName({ bits, block, offsets }: Format): string {
  return `${bits} bits in blocks of ${block}${offsets ? " with offsets" : ""}`;
}

function weightInputs({ rows, columns, bits, block, offsets }: Format): Case["inputs"] {
  const bytes = rows * columns * bits / 8;
  const blocks = { shape: [rows, columns / block], role: "weight", gradient: false } as const;
  return {
    packed: {
      shape: [rows, columns * bits / 8],
      dtype: "u8",
      role: "weight",
      data: noise(bytes, 11).map((v) => Math.floor((v + 1) * 128)),
    },
    scales: blocks,
    ...(offsets ? { offsets: blocks } : {}),
  };
}

function valueOf(
  { bits, block }: Format,
  { packed, scales, offsets }: Readonly<Record<string, Value>>,
): QuantizedValue {
  return { packed, scales, offsets, bits, block };
}

function matrixOf({ rows, columns, bits, block }: Format, { packed, scales, offsets }: Arrays): Nd {
  return build([rows, columns], ([r, c]) => {
    const byte = at(packed, [r, bits === 8 ? c : c >> 1]);
    const q = bits === 8 ? byte - 128 : (byte >> (c & 1) * 4 & 15) - 8;
    const place = [r, Math.floor(c / block)];
    return q * at(scales, place) + (offsets ? at(offsets, place) : 0);
  });
}

const FORMATS: readonly Format[] = [
  { rows: 6, columns: 64, bits: 4, block: 32, offsets: false },
  { rows: 7, columns: 96, bits: 4, block: 32, offsets: true },
  { rows: 5, columns: 64, bits: 8, block: 32, offsets: false },
  { rows: 5, columns: 48, bits: 8, block: 16, offsets: false },
  { rows: 9, columns: 32, bits: 4, block: 16, offsets: true },
  { rows: 4, columns: 48, bits: 4, block: 16, offsets: false },
  { rows: 3, columns: 64, bits: 8, block: 32, offsets: true },
];

/** Cases for matmulQuantized, gatherQuantized and dequantize. */
export const QUANTIZED_CASES: readonly Case[] = FORMATS.flatMap((format): Case[] => {
  const weight = weightInputs(format), { rows, columns } = format, name = formatName(format);
  return [
    ...[1, 3, 41].map((m): Case => ({
      name: `matmulQuantized of ${m} rows, ${name}`,
      inputs: { x: { shape: [m, columns], gradient: m === 3 }, ...weight },
      build: (_graph, v) => matmulQuantized(v.x, valueOf(format, v), { transposeB: true }),
      reference: (a) => product(a.x, matrixOf(format, a), { transposeB: true }),
      // A device may round the activations of a few rows to 15 bits or so where weights have 8.
      tolerance: format.bits === 8 && m < 32 ? 5e-5 : 5e-6,
    })),
    {
      name: `matmulQuantized untransposed, ${name}`,
      inputs: { x: { shape: [2, 2, rows] }, ...weight },
      build: (_graph, v) => matmulQuantized(v.x, valueOf(format, v)),
      reference: (a) => product(a.x, matrixOf(format, a)),
      tolerance: format.bits === 8 ? 5e-5 : 5e-6, // of its gradient
    },
    {
      name: `gatherQuantized, ${name}`,
      inputs: { ids: { shape: [2, 2], dtype: "i32", data: [rows - 1, 0, 2, 2] }, ...weight },
      build: (_graph, v) => gatherQuantized(valueOf(format, v), v.ids),
      reference: (a) => {
        const w = matrixOf(format, a);
        return build([2, 2, columns], ([i, j, c]) => at(w, [at(a.ids, [i, j]), c]));
      },
    },
    {
      name: `dequantize, ${name}`,
      inputs: weight,
      build: (_graph, v) => dequantize(valueOf(format, v)),
      reference: (a) => matrixOf(format, a),
    },
  ];
});
