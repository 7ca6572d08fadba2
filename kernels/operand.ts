/**
 * How matrix kernels read their operands, whatever these are stored as.
 *
 * @module
 */
import type { KernelDispatch } from "./kernel.ts";
import type { Sizes } from "./sizes.ts";

/** What can be bound: an input by number, the output, a temporary. */
export type Binding = KernelDispatch["bindings"][number];

/** A block-quantized format; see `QuantizedValue` in lib/ops/quantized-value.ts. */
export interface QuantizedFormat {
  /** 4 or 8. */
  readonly bits: 4 | 8;
  /** Elements that share a scale, along a line. */
  readonly block: number;
  /** There is a buffer of offsets. */
  readonly offsets: boolean;
}

/** What elements are stored as. */
export type OperandFormat = "f32" | "f16" | "bf16" | QuantizedFormat;

/** A stack of row-major matrices: `count · lines` lines one after the other, each of `length` elements. */
export interface Operand {
  /** What elements are stored as. */
  readonly format: OperandFormat;
  /** Lines per matrix. */
  readonly lines: number;
  /** Elements per line. */
  readonly length: number;
  /** The buffers: one, or packed, scales and offsets of a quantized operand. */
  readonly bindings: readonly Binding[];
  /**
   * The lines are those of attention heads, which lie interleaved: stored as [stacks, lines, count, length], and numbered as if stored as
   * [stacks, count, lines, length]. Not for quantized operands.
   */
  readonly heads?: {
    readonly count: number;
    readonly lines: number;
    /** Stacks in all. */
    readonly stacks: number;
  };
}

/** Whether lines can be read four elements at a time. */
export function readsFour(operand: Operand): boolean {
  return operand.length % 4 === 0;
}

/**
 * Elements that one load of 16 bytes gives (8 bytes where a line or a block is not a multiple of more): what {@link chunkFunction}
 * reads at once. 0 where lines cannot be read so.
 */
export function chunkWidth({ format, length }: Operand): number {
  if (format === "f32") return length % 4 ? 0 : 4;
  if (typeof format === "string") return length % 8 ? length % 4 ? 0 : 4 : 8;
  return Math.min(128 / format.bits, format.block);
}

/**
 * Declares an operand's buffers and a function that reads it.
 *
 * @param operand What to declare.
 * @param options `name` prefixes the names; `binding` is the number of its first binding; `sizes` are the kernel's. With access `element` the function is
 * `fn NAME(line: u32, at: u32) -> f32`; with `four` it is `fn NAME(line: u32, at: u32) -> vec4<f32>`, where `at` counts fours; with `chunk`
 * it is `fn NAME(line: u32, at: u32) -> array<vec4<f32>, W / 4>` for the {@link chunkWidth} W, where `at` counts chunks. `line` counts through the
 * whole stack.
 */
export function declareOperand(
  operand: Operand,
  options: {
    readonly name: string;
    readonly binding: number;
    readonly access: "element" | "four" | "chunk";
    readonly sizes: Sizes;
  },
): string {
  const { format } = operand;
  if (typeof format !== "string") return declareQuantized(operand, format, options);
  const { name, binding, access, sizes } = options;
  const { length } = operand;
  const row = storedLine("line", operand, sizes);
  const head = (type: string) =>
    `@group(0) @binding(${binding}) var<storage, read> ${name}Data: array<${type}>;\n`;
  if (access === "element") {
    const index = `${row} * ${sizes.u32(length)} + at`;
    if (format === "f32") {
      return `${
        head("f32")
      }fn ${name}(line: u32, at: u32) -> f32 { return ${name}Data[${index}]; }\n`;
    }
    // The wanted half is moved to where the conversion expects it, which costs less than choosing between two results.
    const half = `(word >> (16u * (i & 1u)))`;
    return `${head("u32")}fn ${name}(line: u32, at: u32) -> f32 {
  let i = ${index};
  let word = ${name}Data[i >> 1u];
  return ${format === "bf16" ? `bitcast<f32>(${half} << 16u)` : `unpack2x16float(${half}).x`};
}
`;
  }
  if (access === "chunk") {
    const width = chunkWidth(operand);
    const result = `array<vec4<f32>, ${width / 4}>`;
    const signature = `fn ${name}(line: u32, at: u32) -> ${result} {`;
    const index = `${row} * ${sizes.u32(length / width)} + at`;
    if (format === "f32") {
      return `${head("vec4<f32>")}${signature} return ${result}(${name}Data[${index}]); }\n`;
    }
    const words = width / 2;
    const parts = Array.from(
      { length: width / 4 },
      (_, i) => widen(format, `w[${2 * i}]`, `w[${2 * i + 1}]`),
    );
    return `${head(`vec${words}<u32>`)}${signature}
  let w = ${name}Data[${index}];
  return ${result}(${parts.join(", ")});
}
`;
  }
  const index = `${row} * ${sizes.u32(length / 4)} + at`;
  const signature = `fn ${name}(line: u32, at: u32) -> vec4<f32> {`;
  return format === "f32"
    ? `${head("vec4<f32>")}${signature} return ${name}Data[${index}]; }\n`
    : `${head("vec2<u32>")}${signature}
  let w = ${name}Data[${index}];
  return ${widen(format, "w.x", "w.y")};
}
`;
}

/** WGSL expression of where a line lies, in lines. */
function storedLine(line: string, { heads }: Operand, sizes: Sizes): string {
  if (!heads || heads.count === 1) return line;
  const { count, lines, stacks } = heads;
  const byLines = sizes.divisor(lines, lines * stacks), byCount = sizes.divisor(count, stacks);
  const stack = byLines.quotient(line);
  return `((${byCount.quotient(stack)} * ${byLines.value} + ${
    byLines.remainder(line)
  }) * ${byCount.value} + ${byCount.remainder(stack)})`;
}

/** Four elements from the two words that hold them. */
function widen(format: "f16" | "bf16", low: string, high: string): string {
  return format === "f16"
    ? `vec4<f32>(unpack2x16float(${low}), unpack2x16float(${high}))`
    : `bitcast<vec4<f32>>(vec4<u32>(${low} << 16u, ${low} & 0xffff0000u, ${high} << 16u, ${high} & 0xffff0000u))`;
}

function declareQuantized(
  operand: Operand,
  format: QuantizedFormat,
  options: {
    readonly name: string;
    readonly binding: number;
    readonly access: "element" | "four" | "chunk";
    readonly sizes: Sizes;
  },
): string {
  const { name, binding, access, sizes } = options;
  const { bits, block, offsets } = format;
  const { length } = operand;
  const width = chunkWidth(operand);
  const words = access === "chunk" ? width * bits / 32 : 1;
  const zero = bits === 4 ? "8.0" : "128.0";
  const mask = bits === 4 ? "15u" : "255u";
  let text = `@group(0) @binding(${binding}) var<storage, read> ${name}Data: array<${
    words === 1 ? "u32" : `vec${words}<u32>`
  }>;
@group(0) @binding(${binding + 1}) var<storage, read> ${name}Scales: array<f32>;
`;
  if (offsets) {
    text += `@group(0) @binding(${binding + 2}) var<storage, read> ${name}Offsets: array<f32>;\n`;
  }
  // (q − zero) · scale + offset, as one product and one sum per element.
  const scale = (elements: string) => `
  let block = line * ${sizes.u32(length / block)} + ${elements};
  let scale = ${name}Scales[block];
  let bias = ${offsets ? `${name}Offsets[block] - ` : "-"}${zero} * scale;
`;
  // Four elements that begin at bit `from` of a word.
  const four = (word: string, from: string) =>
    `vec4<f32>((vec4<u32>(${word}) >> (vec4<u32>(0u, ${bits}u, ${2 * bits}u, ${
      3 * bits
    }u)${from})) & vec4<u32>(${mask})) * scale + bias`;
  switch (access) {
    case "element": {
      const perWord = 32 / bits;
      return `${text}fn ${name}(line: u32, at: u32) -> f32 {${scale(`at / ${block}u`)}
  let word = ${name}Data[line * ${sizes.u32(length / perWord)} + at / ${perWord}u];
  return f32((word >> (${bits}u * (at % ${perWord}u))) & ${mask}) * scale + bias;
}
`;
    }
    case "four":
      return `${text}fn ${name}(line: u32, at: u32) -> vec4<f32> {${scale(`at / ${block / 4}u`)}
  let word = ${name}Data[line * ${sizes.u32(length * bits / 32)} + ${
        bits === 4 ? "(at >> 1u)" : "at"
      }];
  return ${four("word", bits === 4 ? " + 16u * (at & 1u)" : "")};
}
`;
    case "chunk": {
      const parts = Array.from({ length: width / 4 }, (_, i) => {
        const bit = i * 4 * bits;
        const word = words === 1 ? "w" : `w[${bit >> 5}]`;
        return four(word, bit & 31 ? ` + ${bit & 31}u` : "");
      });
      return `${text}fn ${name}(line: u32, at: u32) -> array<vec4<f32>, ${width / 4}> {${
        scale(block === width ? "at" : `at / ${block / width}u`)
      }
  let w = ${name}Data[line * ${sizes.u32(length / width)} + at];
  return array<vec4<f32>, ${width / 4}>(${parts.join(",\n    ")});
}
`;
    }
  }
}
