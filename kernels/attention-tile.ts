/**
 * The pieces that attention in tiles is made of: 64 invocations, numbered `thread`, of which the one at column `x` and row `y` of 8 × 8 holds 4 × 4
 * elements of a tile. See kernels/attention-flash.ts.
 *
 * @module
 */
import type { Sizes } from "./sizes.ts";
import { opaqueZero, pick } from "./wgsl.ts";

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
export function declareHeads(
  name: string,
  options: { readonly binding: number; readonly depth: number; readonly sizes: Sizes },
): string {
  const { binding, depth, sizes } = options;
  if (depth % 4 === 0) {
    const fours = sizes.u32(depth / 4);
    return `@group(0) @binding(${binding}) var<storage, read> ${name}Data: array<vec4<f32>>;
fn ${name}At(line: u32, at: u32) -> vec4<f32> {
  ${
      depth % TILE
        ? `return select(vec4<f32>(), ${name}Data[line * ${fours} + min(at, ${fours} - 1u)], at < ${fours});`
        : `return ${name}Data[line * ${fours} + at];`
    }
}
`;
  }
  const width = sizes.u32(depth);
  const element = (i: number) =>
    `select(0.0, ${name}Data[line * ${width} + min(at * 4u + ${i}u, ${width} - 1u)], at * 4u + ${i}u < ${width})`;
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
  // Rows lie so that the first, second … of neighbouring fours of rows are neighbours, as they are read together.
  return `for (var chunk = 0u; chunk < ${chunks}u; chunk++) {
      for (var unit = thread; unit < ${TILE * 8}u; unit += ${THREADS}u) {
        let line = unit / 8u;
        let four = unit % 8u;
        let slot = (line % 4u * 8u + line / 4u) * ${STRIDE}u + four;
        tileX[slot] = ${x}At(${lineX("line")}, chunk * 8u + four);
        tileY[slot] = ${y}At(${lineY("line")}, chunk * 8u + four);
      }
      workgroupBarrier();
      for (var four = ${ZERO}; four < 8u; four++) {
        ${
    I.map((i) => `let a${i} = tileX[(${i * 8}u + y) * ${STRIDE}u + four];`).join("\n        ")
  }
        ${
    I.map((i) => `let b${i} = tileY[(${i * 8}u + x) * ${STRIDE}u + four];`).join("\n        ")
  }
        ${
    I.map((i) => `${into}${i} += vec4<f32>(${I.map((c) => `dot(a${i}, b${c})`).join(", ")});`)
      .join("\n        ")
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

/** WGSL that stores the four rows of an invocation, each times `factor`. */
export function storeRows(
  line: (row: string) => string,
  options: {
    /** WGSL of the number of rows. */
    readonly rows: string;
    readonly depth: number;
    readonly chunks: number;
    /** WGSL of what row `i` is multiplied by. */
    readonly factor: string;
    readonly sizes: Sizes;
  },
): string {
  const { rows, depth, chunks, factor, sizes } = options;
  const width = sizes.u32(depth % 4 ? depth : depth / 4);
  const parts = Array.from({ length: chunks }, (_, c) => {
    const at = `${c * 8}u + x`;
    const value = `${pick((i) => `acc${i}x${c}`, 0, 4)} * ${factor}`;
    return depth % 4 === 0
      ? `if (${at} < ${width}) { output[line * ${width} + ${at}] = ${value}; }`
      : `{ let value = ${value}; ${
        I.map((e) =>
          `if ((${at}) * 4u + ${e}u < ${width}) { output[line * ${width} + (${at}) * 4u + ${e}u] = value.${
            "xyzw"[e]
          }; }`
        ).join(" ")
      } }`;
  });
  return `for (var i = ${ZERO}; i < min(4u, ${rows} - min(${rows}, first + y * 4u)); i++) {
    let line = ${line("first + y * 4u + i")};
    ${parts.join("\n    ")}
  }`;
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
