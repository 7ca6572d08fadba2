/**
 * The pieces that attention in tiles is made of: 64 invocations, numbered `thread`, of which the one at column `x` and row `y` of 8 × 8 holds 4 × 4
 * elements of a tile. See kernels/attention-flash.ts.
 *
 * @module
 */
import { opaqueZero } from "./wgsl.ts";

/** Rows and columns of a tile, and elements of a head per step. */
export const TILE = 32;
/** Fours per line of a tile in workgroup memory; one more than there are, against bank conflicts. */
export const STRIDE = TILE / 4 + 1;
/** Invocations of a workgroup. */
export const THREADS = 64;
/** Steps of the inner loops that are written out. */
const UNROLL = 2;
/** See `opaqueZero`. */
export const ZERO = opaqueZero("thread", THREADS);

/** The rows and columns of an invocation. */
export const I = [0, 1, 2, 3] as const;

/** Declares a [.., heads, D] input and `NAMEAt(line, at)`, which gives four elements, zeros past D. `line` counts heads of rows. */
export function declareHeads(name: string, binding: number, depth: number): string {
  const fours = Math.ceil(depth / 4);
  if (depth % 4 === 0) {
    return `@group(0) @binding(${binding}) var<storage, read> ${name}Data: array<vec4<f32>>;
fn ${name}At(line: u32, at: u32) -> vec4<f32> {
  ${
      fours % 8
        ? `return select(vec4<f32>(), ${name}Data[line * ${fours}u + min(at, ${
          fours - 1
        }u)], at < ${fours}u);`
        : `return ${name}Data[line * ${fours}u + at];`
    }
}
`;
  }
  const element = (i: number) =>
    `select(0.0, ${name}Data[line * ${depth}u + min(at * 4u + ${i}u, ${
      depth - 1
    }u)], at * 4u + ${i}u < ${depth}u)`;
  return `@group(0) @binding(${binding}) var<storage, read> ${name}Data: array<f32>;
fn ${name}At(line: u32, at: u32) -> vec4<f32> {
  return vec4<f32>(${I.map(element).join(", ")});
}
`;
}

const unrolled = (text: (u: number) => string) =>
  Array.from({ length: UNROLL }, (_, u) => `{ ${text(u)} }`).join("\n      ");

/** WGSL that adds `x · yᵀ` over all of D to `into0` … `into3`. The two give the line of a row of each side. */
export function product(
  into: string,
  sides: {
    readonly x: string;
    readonly y: string;
    readonly lineX: (row: string) => string;
    readonly lineY: (column: string) => string;
    readonly chunks: number;
  },
): string {
  const { x, y, lineX, lineY, chunks } = sides;
  const transpose = (tile: string) =>
    ["x", "y", "z", "w"].map((c, i) =>
      `${tile}[(step * 4u + ${i}u) * ${STRIDE}u + four] = vec4<f32>(v0.${c}, v1.${c}, v2.${c}, v3.${c});`
    ).join("\n      ");
  return `for (var chunk = 0u; chunk < ${chunks}u; chunk++) {
      let step = thread % 8u;
      let four = thread / 8u;
      let at = chunk * 8u + step;
      {
      ${I.map((i) => `let v${i} = ${x}At(${lineX(`four * 4u + ${i}u`)}, at);`).join("\n      ")}
      ${transpose("tileX")}
      }
      {
      ${I.map((i) => `let v${i} = ${y}At(${lineY(`four * 4u + ${i}u`)}, at);`).join("\n      ")}
      ${transpose("tileY")}
      }
      workgroupBarrier();
      for (var d = ${ZERO}; d < ${TILE}u; d += ${UNROLL}u) {
        ${
    unrolled((u) =>
      `let a = tileX[(d + ${u}u) * ${STRIDE}u + y];
        let b = tileY[(d + ${u}u) * ${STRIDE}u + x];
        ${I.map((i) => `${into}${i} += a.${"xyzw"[i]} * b;`).join(" ")}`
    )
  }
      }
      workgroupBarrier();
    }`;
}

/** WGSL that adds `weights · z` to `accIxC`; the weights are in `tileW`, written by the caller before. */
export function accumulate(
  z: string,
  options: { readonly lineZ: (column: string) => string; readonly chunks: number },
): string {
  const { lineZ, chunks } = options;
  return Array.from(
    { length: chunks },
    (_, c) =>
      `for (var unit = thread; unit < ${TILE * 8}u; unit += ${THREADS}u) {
      let line = unit / 8u;
      let four = unit % 8u;
      tileX[line * ${STRIDE}u + four] = ${z}At(${lineZ("line")}, ${c * 8}u + four);
    }
    workgroupBarrier();
    for (var n = ${ZERO}; n < ${TILE}u; n += ${UNROLL}u) {
      ${
        unrolled((u) =>
          `let w = tileW[(n + ${u}u) * ${STRIDE}u + y];
      let z = tileX[(n + ${u}u) * ${STRIDE}u + x];
      ${I.map((i) => `acc${i}x${c} += w.${"xyzw"[i]} * z;`).join(" ")}`
        )
      }
    }
    workgroupBarrier();`,
  ).join("\n    ");
}

/** WGSL that stores the four rows of an invocation, each times `factor(i)`. */
export function storeRows(
  line: (row: string) => string,
  options: {
    readonly rows: number;
    readonly depth: number;
    readonly chunks: number;
    readonly factor: (i: number) => string;
  },
): string {
  const { rows, depth, chunks, factor } = options;
  const fours = Math.ceil(depth / 4);
  return I.map((i) => {
    const row = `first + y * 4u + ${i}u`;
    const parts = Array.from({ length: chunks }, (_, c) => {
      const at = `${c * 8}u + x`;
      const value = `acc${i}x${c} * ${factor(i)}`;
      return depth % 4 === 0
        ? `if (${at} < ${fours}u) { output[line * ${fours}u + ${at}] = ${value}; }`
        : `{ let value = ${value}; ${
          I.map((e) =>
            `if ((${at}) * 4u + ${e}u < ${depth}u) { output[line * ${depth}u + (${at}) * 4u + ${e}u] = value.${
              "xyzw"[e]
            }; }`
          ).join(" ")
        } }`;
    });
    return `if (${row} < ${rows}u) {
    let line = ${line(row)};
    ${parts.join("\n    ")}
  }`;
  }).join("\n  ");
}

/** Declares the tiles. */
export const TILES = `
var<workgroup> tileX: array<vec4<f32>, ${TILE * STRIDE}>;
var<workgroup> tileY: array<vec4<f32>, ${TILE * STRIDE}>;
var<workgroup> tileW: array<vec4<f32>, ${TILE * STRIDE}>;
`;

/** Declares the sums of an invocation: `accIxC` for row I and step C along a head. */
export const accumulators = (chunks: number) =>
  Array.from(
    { length: chunks },
    (_, c) => I.map((i) => `var acc${i}x${c} = vec4<f32>();`).join(" "),
  )
    .join("\n  ");

/** The weights of a tile, as [column][row] fours of rows. */
export const WRITE_WEIGHTS = I.map((c) =>
  `tileW[(x * 4u + ${c}u) * ${STRIDE}u + y] = vec4<f32>(${
    I.map((i) => `w${i}.${"xyzw"[c]}`).join(", ")
  });`
).join("\n    ");
