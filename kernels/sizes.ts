/**
 * Numbers that kernels read as data. A kernel's text says what it does, and one pipeline serves all sizes: shapes, strides, offsets and scalars are fields
 * of a uniform buffer, which the text names and each dispatch fills.
 *
 * @module
 */
import type { IndexMap } from "./index-map.ts";
import type { ValueType } from "./value.ts";
import { STORAGE } from "./wgsl.ts";

/** Number of the binding, in group 0, at which kernels read their sizes; those of buffers are lower. */
export const SIZES_BINDING = 100;

/**
 * Quotients up to which {@link Divisor} multiplies by the reciprocal. Rounded down so far that it is never too large, the reciprocal is at most
 * 2⁻²¹ off, so that a quotient below this is right or one too small.
 */
const LARGEST_QUOTIENT = 2 ** 20;

/** A number that others are divided by, as WGSL expressions of `u32`. */
export interface Divisor {
  /** The number itself. */
  readonly value: string;
  /** ⌊x / number⌋ */
  quotient(x: string): string;
  /** x mod number */
  remainder(x: string): string;
}

/** The numbers of one kernel, in the order in which its text came to need them. */
export interface Sizes {
  /** Names a whole number from 0 on; wraps around where it is negative. */
  u32(value: number): string;
  /** Names a whole number. */
  i32(value: number): string;
  /** Names a number. */
  f32(value: number): string;
  /** Names a number of the type that elements of `dtype` have in expressions; truth values are written out. */
  scalar(value: number, dtype: ValueType): string;
  /** Names a divisor, from 1 on, of numbers up to `largest`. */
  divisor(value: number, largest: number): Divisor;
  /** Declares a function for a map, and gives the expression of the mapped index from one of the index. */
  map(map: IndexMap): (index: string) => string;
  /** Sizes that begin with these, for what is added to a kernel later. */
  extended(): Sizes;
  /** Equal where {@link complete} makes the same of the same source. */
  key(): string;
  /** A kernel's source with all that it names declared. */
  complete(source: string): string;
  /** Contents of the uniform buffer; empty where the kernel reads none. */
  words(): Uint32Array<ArrayBuffer>;
}

const DIVISION = `
fn quotient(x: u32, by: u32, reciprocal: f32) -> u32 {
  let q = i32(f32(i32(x)) * reciprocal);
  return u32(select(q, q + 1, i32(x) - q * i32(by) >= i32(by)));
}
fn remainder(x: u32, by: u32, reciprocal: f32) -> u32 {
  let r = i32(x) - i32(f32(i32(x)) * reciprocal) * i32(by);
  return u32(select(r, r - i32(by), r >= i32(by)));
}
`;

interface Field {
  readonly type: "u32" | "i32" | "f32";
  readonly value: number;
}

/** Sizes of a kernel that is about to be written. */
export function createSizes(): Sizes {
  return sizesOf([], []);
}

function sizesOf(fields: Field[], functions: string[]): Sizes {
  const field = (type: Field["type"], value: number) =>
    `sizes.n${fields.push({ type, value }) - 1}`;
  const sizes: Sizes = {
    u32: (value) => field("u32", value),
    i32: (value) => field("i32", value),
    f32: (value) => field("f32", value),
    scalar(value, dtype) {
      const { register } = STORAGE[dtype];
      return register === "bool" ? String(Boolean(value)) : field(register, value);
    },
    divisor(value, largest) {
      const by = field("u32", value);
      if (largest >= 2 ** 31 || largest / value >= LARGEST_QUOTIENT) {
        return {
          value: by,
          quotient: (x) => `(${x}) / ${by}`,
          remainder: (x) => `(${x}) % ${by}`,
        };
      }
      const reciprocal = field("f32", reciprocalOf(value));
      return {
        value: by,
        quotient: (x) => `quotient(${x}, ${by}, ${reciprocal})`,
        remainder: (x) => `remainder(${x}, ${by}, ${reciprocal})`,
      };
    },
    map(map) {
      const { factors, offset } = map;
      const start = offset === 0 ? "0u" : sizes.u32(offset);
      if (factors.length === 0) return () => start;
      const lines: string[] = [];
      const moves = factors.map(({ stride }) => stride !== 0);
      let largest = factors.reduce((n, f) => n * f.extent, 1) - 1;
      for (let i = factors.length - 1; moves.includes(true); i--) {
        const { extent, stride } = factors[i];
        const step = stride === 1 ? "" : stride === 0 ? "" : ` * ${sizes.u32(stride)}`;
        const by = i === 0 ? null : sizes.divisor(extent, largest);
        const moved = moves[i];
        moves[i] = false;
        if (!by || !moves.includes(true)) {
          if (moved) lines.push(`at += ${by ? by.remainder("rest") : "rest"}${step};`);
          break;
        }
        largest = Math.floor(largest / extent);
        lines.push(`let next${i} = ${by.quotient("rest")};`);
        if (moved) lines.push(`at += ${by.remainder("rest")}${step};`);
        lines.push(`rest = next${i};`);
      }
      const name = `map${functions.length}`;
      functions.push(
        `fn ${name}(index: u32) -> u32 {
  var rest = index;
  var at = ${start};
  ${lines.join("\n  ")}
  return at;
}`,
      );
      return (index) => `${name}(${index})`;
    },
    extended: () => sizesOf([...fields], [...functions]),
    key: () => `${fields.map(({ type }) => type[0]).join("")}\n${functions.join("\n")}`,
    complete(source) {
      if (fields.length === 0) return source;
      const members = fields.map(({ type }, i) => `  n${i}: ${type},`).join("\n");
      const count = Math.ceil(fields.length / 4);
      const { before, body, after } = mainOf(source);
      const others = `${functions.join("\n")}${before}${after}`;
      const shared = new Set([...others.matchAll(/\bsizes\.n(\d+)/g)].map(([, n]) => Number(n)));
      // Read once, four at a time: a load costs some drivers as much as ten operations. What `main` itself reads stays a constant of its own, as loops around
      // barriers need bounds that are known to be the same for all invocations.
      const reads = Array.from({ length: count }, (_, i) => `let given${i} = given[${i}];`);
      const copies = fields.map(({ type }, i) => {
        const word = `given${i >> 2}.${"xyzw"[i & 3]}`;
        return `let size${i} = ${type === "u32" ? word : `bitcast<${type}>(${word})`};${
          shared.has(i) ? ` sizes.n${i} = size${i};` : ""
        }`;
      });
      return `struct Sizes {
${members}
}
@group(0) @binding(${SIZES_BINDING}) var<uniform> given: array<vec4<u32>, ${count}>;
var<private> sizes: Sizes;
${DIVISION}${functions.join("\n")}
${before}
  ${[...reads, ...copies].join("\n  ")}${body.replace(/\bsizes\.n(\d+)/g, "size$1")}${after}`;
    },
    words() {
      // A uniform buffer is a whole number of 16 bytes.
      const words = new Uint32Array(Math.ceil(fields.length / 4) * 4);
      const floats = new Float32Array(words.buffer);
      fields.forEach(({ type, value }, i) => {
        if (type === "f32") floats[i] = value;
        else words[i] = value;
      });
      return words;
    },
  };
  return sizes;
}

/** The text of a source up to the first line of `main`, the rest of `main`, and what follows. */
function mainOf(
  source: string,
): { readonly before: string; readonly body: string; readonly after: string } {
  const start = source.indexOf(") {", source.search(/^fn main\(/m)) + 3;
  let end = start;
  for (let depth = 1; depth > 0; end++) {
    if (source[end] === "{") depth++;
    if (source[end] === "}") depth--;
  }
  return {
    before: source.slice(0, start),
    body: source.slice(start, end),
    after: source.slice(end),
  };
}

/** The largest f32 that is below 1 / value by at least 2⁻²² of it. */
function reciprocalOf(value: number): number {
  const bits = new Uint32Array(1), float = new Float32Array(bits.buffer);
  const limit = (1 - 2 ** -22) / value;
  float[0] = limit;
  while (float[0] > limit) bits[0]--;
  return float[0];
}
