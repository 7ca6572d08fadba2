/**
 * Turns elementwise nodes into WGSL functions of the flat index: the part that fused elementwise kernels, prologues of reductions and epilogues of other kernels
 * have in common.
 *
 * @module
 */
import { broadcastMap, composeMaps, identityMap, type IndexMap, isIdentity } from "./index-map.ts";
import type { KernelRule } from "./kernel-rule.ts";
import type { Value, ValueType } from "./value.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import { joinFunctions } from "./scalar-functions.ts";
import type { Sizes } from "./sizes.ts";
import { BF16_FUNCTION, literal, LITERAL_FUNCTIONS, STORAGE, unpack } from "./wgsl.ts";

/** A buffer, or a range of one, that an expression reads. */
export interface Leaf {
  /** Equal for the same range of the same buffer. */
  readonly key: string;
  /** One of the values that lie there. */
  readonly value: Value;
}

/** One dispatch of a kernel that is made of expressions. */
export interface FusedDispatch {
  /** WGSL with entry point `main`. */
  readonly source: string;
  /** The numbers that the source names. */
  readonly sizes: Sizes;
  /** What is bound: leaves, the group's outputs by number, or temporaries. */
  readonly bindings:
    readonly (Leaf | { readonly output: number } | { readonly temporary: number })[];
  /** Workgroups in x, y, z. */
  readonly workgroups: readonly [number, number, number];
}

/** How values are read. */
export interface Reads {
  /** Gives the buffer in which a value lies, or null where the value is part of the expression. */
  readonly leaf: (value: Value) => Leaf | null;
  /** The rule of a value's operation. */
  readonly rule: (value: Value) => KernelRule;
}

/** What to write. */
export interface ExpressionOptions extends Reads {
  /** The values to compute; all have the same number of elements. */
  readonly roots: readonly Value[];
  /** The numbers of the kernel that the functions are part of. */
  readonly sizes: Sizes;
  /** A value that the caller passes as the argument `value`. */
  readonly parameter?: Value;
  /** The functions are called this, and this with a 4; other names begin with it. */
  readonly name: string;
  /** Number of the first buffer's binding. */
  readonly firstBinding: number;
  /** Writes only the function of one element. */
  readonly scalarOnly?: boolean;
  /** Keys of leaves that the kernel writes to as well. */
  readonly written?: ReadonlySet<string>;
}

/** What was written. */
export interface WrittenExpression {
  /**
   * Declarations of the buffers and of two functions: `name([value,] index) -> R` and `name4([value,] index) -> R4` for the four elements
   * from `index` on, a multiple of 4. R is the WGSL type of the element, or a struct with fields `r0`, `r1` … where there are several
   * roots; R4 likewise with vectors.
   */
  readonly source: string;
  /** WGSL function texts that `source` calls; to be declared once per kernel. */
  readonly functions: readonly string[];
  /** The buffers, in order of their bindings. */
  readonly leaves: readonly Leaf[];
  /** Keys of leaves that are read only at the index of the element that is computed, so that a result may overwrite them. */
  readonly pointwise: ReadonlySet<string>;
}

/** How the four elements from a multiple of 4 on are read: as one vector, all from one place, or one by one. */
export type LaneAccess = "lane" | "uniform" | "indexed";

/** How a map is read by four neighbours. */
function laneAccess(map: IndexMap): LaneAccess {
  const { factors, offset } = map;
  if (factors.length === 0) return "uniform";
  const last = factors[factors.length - 1];
  // A single factor covers all elements, so that no quad but the last, incomplete one can cross its end.
  if (factors.length > 1 && last.extent % 4 !== 0) return "indexed";
  if (last.stride === 0) return "uniform";
  const aligned = offset % 4 === 0 && factors.slice(0, -1).every((f) => f.stride % 4 === 0);
  return last.stride === 1 && aligned ? "lane" : "indexed";
}

interface Position {
  /** Flat index in the value, as WGSL text. */
  readonly index: string;
  /** The same as a map from the index of the result, where it is one, and as WGSL text from that of any element. */
  readonly map: IndexMap | null;
  readonly from: (index: string) => string;
  /** Equal for all elements of a quad. */
  readonly uniform: boolean;
}

/** `quad` code runs once for four elements, `lane` code for each. */
type Stage = "quad" | "lane";

interface Emitted {
  readonly text: string;
  readonly stage: Stage | "literal";
}

interface LeafUse {
  readonly leaf: Leaf;
  readonly number: number;
  vector: boolean;
  pointwise: boolean;
}

/** Writes the functions that compute some values from the buffers they depend on. */
export function writeExpression(options: ExpressionOptions): WrittenExpression {
  const { roots, name, parameter, sizes } = options;
  const uses = new Map<string, LeafUse>();
  const functions = new Set<string>();
  const code: Record<Stage, string[]> = { quad: [], lane: [] };
  const emitted = new Map<string, Emitted>();
  const positions = new Map<string, Position>();
  /** Parameters of the element function: name → type, and what to pass in the scalar and the vector form. */
  const parameters = new Map<
    string,
    { type: string; scalar: string; lane: (i: number) => string }
  >();
  const vectors: string[] = [];
  let count = 0;

  const start: Position = {
    index: "index",
    map: identityMap(sizeOf(roots[0].shape)),
    from: (index) => index,
    // An argument differs from element to element, and so does what is made of it.
    uniform: sizeOf(roots[0].shape) === 1 && !parameter,
  };
  const results = roots.map((r) => toLane(emit(r, start), STORAGE[r.dtype].register));

  function toLane(e: Emitted, type: string): string {
    if (e.stage === "quad") {
      parameters.set(e.text, { type, scalar: e.text, lane: () => e.text });
    }
    return e.text;
  }

  function define(type: string, text: string, stage: Stage): Emitted {
    const variable = `v${count++}`;
    code[stage].push(`let ${variable}: ${type} = ${text};`);
    return { text: variable, stage };
  }

  /** The position in an input whose elements `map` takes from the value at `at`. */
  function move(at: Position, map: IndexMap): Position {
    if (isIdentity(map)) return at;
    // A constant index is one wherever it is used.
    const composed = map.factors.length === 0 ? map : at.map && composeMaps(at.map, map);
    const uniform = composed ? laneAccess(composed) === "uniform" : at.uniform;
    if (composed && composed.factors.length && isIdentity(composed)) return start;
    const base = composed ? "index" : at.index;
    const key = `${uniform} ${base} ${JSON.stringify(composed ?? map)}`;
    let position = positions.get(key);
    if (!position) {
      const from = sizes.map(composed ?? map);
      // Indices into vectors are computed where they are used, from the first index of the quad.
      const index = `i${count++}`;
      code[uniform ? "quad" : "lane"].push(`let ${index}: u32 = ${from(base)};`);
      position = { index, map: composed, from, uniform };
      positions.set(key, position);
    }
    return position;
  }

  function emit(value: Value, at: Position): Emitted {
    const key = `${value.id}@${at.index}`;
    const known = emitted.get(key);
    if (known) return known;
    const result = emitNew(value, at);
    emitted.set(key, result);
    return result;
  }

  function emitNew(value: Value, at: Position): Emitted {
    if (value === parameter) {
      if (!at.map || !isIdentity(at.map)) {
        throw new TypeError(`An epilogue reads ${value.op} at another index than its own.`);
      }
      return { text: "value", stage: "lane" };
    }
    const leaf = options.leaf(value);
    const { register } = STORAGE[value.dtype];
    if (leaf) return load(leaf, at, register);
    const rule = options.rule(value);
    const stage: Stage = at.uniform ? "quad" : "lane";
    const input = (x: Value, position: Position): string => {
      const e = emit(x, position);
      return stage === "lane" ? toLane(e, STORAGE[x.dtype].register) : e.text;
    };
    switch (rule.kind) {
      case "view":
        return emit(value.inputs[0], at);
      case "layout": {
        const [x] = value.inputs;
        const position = move(at, rule.map(value));
        if (!rule.inside) return emit(x, position);
        const e = emit(x, position);
        // The input may be uniform where the condition is not, and the other way round.
        const together = at.uniform && e.stage !== "lane" ? "quad" : "lane";
        const text = together === "lane" ? toLane(e, register) : e.text;
        let condition = rule.inside(value, { index: at.index, sizes });
        // Where quads are read whole, the borders of a box lie between them.
        const { factors } = rule.map(value);
        if (at === start && factors.length > 1 && laneAccess(rule.map(value)) === "lane") {
          condition = toLane(define("bool", condition, "quad"), "bool");
        }
        return define(
          register,
          `select(${literal(0, value.dtype)}, ${text}, ${condition})`,
          together,
        );
      }
      case "elementwise": {
        const inputs = value.inputs.map((x) =>
          input(
            x,
            sizeOf(x.shape) === sizeOf(value.shape) || (x.op === "constant" && !options.leaf(x))
              ? at
              : move(at, broadcastMap(x.shape, value.shape)),
          )
        );
        const text = rule.expression(value, inputs, { index: at.index, sizes });
        for (const f of rule.functions?.(value) ?? []) functions.add(f);
        if (value.inputs.length === 0 && value.op === "constant") {
          return { text, stage: "literal" };
        }
        return define(register, text, stage);
      }
      default:
        throw new TypeError(`The operation ${value.op} cannot be part of an expression.`);
    }
  }

  function load(leaf: Leaf, at: Position, type: string): Emitted {
    let use = uses.get(leaf.key);
    if (!use) {
      use = { leaf, number: uses.size, vector: false, pointwise: true };
      uses.set(leaf.key, use);
    }
    if (!at.map || !isIdentity(at.map)) use.pointwise = false;
    const access = at.map ? laneAccess(at.map) : at.uniform ? "uniform" : "indexed";
    const scalar = `${name}Load${use.number}(${at.index})`;
    if (access === "uniform") return define(type, scalar, "quad");
    if (access === "indexed" || options.scalarOnly) return define(type, scalar, "lane");
    use.vector = true;
    const variable = `v${count++}`;
    const first = at.from("index");
    vectors.push(`let ${variable} = ${name}Quad${use.number}((${first}) / 4u);`);
    parameters.set(variable, {
      type,
      scalar: `${name}Load${use.number}(${first})`,
      lane: (i) => `${variable}.${"xyzw"[i]}`,
    });
    return { text: variable, stage: "lane" };
  }

  const types = roots.map((r) => STORAGE[r.dtype].register);
  const single = roots.length === 1;
  const valueParameter = parameter ? [["value", STORAGE[parameter.dtype].register]] : [];
  const head = (vector: boolean) =>
    [...valueParameter.map(([n, t]) => `${n}: ${vector ? `vec4<${t}>` : t}`), "index: u32"]
      .join(", ");
  const result = (vector: boolean) =>
    single ? (vector ? `vec4<${types[0]}>` : types[0]) : `${name}Result${vector ? "4" : ""}`;
  const struct = (vector: boolean) =>
    single ? [] : [
      `struct ${result(vector)} {`,
      ...types.map((t, i) => `  r${i}: ${vector ? `vec4<${t}>` : t},`),
      "}",
    ];
  const list = [...parameters];
  const call = (index: string, value: string, text: (p: typeof list[number]) => string) =>
    `${name}Element(${[...(parameter ? [value] : []), index, ...list.map(text)].join(", ")})`;
  const lines = [
    ...[...uses.values()].flatMap((use) => declareLeaf(use, options)),
    ...struct(false),
    `fn ${name}Element(${
      [
        ...valueParameter.map(([n, t]) => `${n}: ${t}`),
        "index: u32",
        ...list.map(([n, p]) => `${n}: ${p.type}`),
      ].join(", ")
    }) -> ${result(false)} {`,
    ...code.lane,
    single ? `return ${results[0]};` : `return ${result(false)}(${results.join(", ")});`,
    "}",
    `fn ${name}(${head(false)}) -> ${result(false)} {`,
    ...code.quad,
    `return ${call("index", "value", ([, p]) => p.scalar)};`,
    "}",
  ];
  if (!options.scalarOnly) {
    lines.push(
      ...struct(true),
      `fn ${name}4(${head(true)}) -> ${result(true)} {`,
      ...code.quad,
      ...vectors,
      ...[0, 1, 2, 3].map((i) =>
        `let e${i} = ${call(`index + ${i}u`, `value.${"xyzw"[i]}`, ([, p]) => p.lane(i))};`
      ),
      single
        ? `return ${result(true)}(e0, e1, e2, e3);`
        : `return ${result(true)}(${
          types.map((t, i) => `vec4<${t}>(e0.r${i}, e1.r${i}, e2.r${i}, e3.r${i})`).join(", ")
        });`,
      "}",
    );
  }
  return {
    source: lines.join("\n"),
    functions: [...functions],
    leaves: [...uses.values()].map((u) => u.leaf),
    pointwise: new Set([...uses.values()].filter((u) => u.pointwise).map((u) => u.leaf.key)),
  };
}

/** Bindings of a leaf are arrays of what four elements take, where they are read so, or of words. */
function declareLeaf(use: LeafUse, options: ExpressionOptions): string[] {
  const { number, vector, leaf } = use;
  const { name } = options;
  const { dtype } = leaf.value;
  const { register, perWord } = STORAGE[dtype];
  const written = options.written?.has(leaf.key);
  const variable = `${name}Leaf${number}`;
  const words = vector || written ? 4 / perWord : 1;
  const lines = [
    `@group(0) @binding(${options.firstBinding + number}) var<storage, ${
      written ? "read_write" : "read"
    }> ${variable}: array<${quadType(dtype, words)}>;`,
    `fn ${name}Load${number}(i: u32) -> ${register} { return ${
      unpack(
        dtype,
        (i) =>
          words === 1 ? `${variable}[${i}]` : `${variable}[(${i}) / ${words}u][(${i}) % ${words}u]`,
        "i",
      )
    }; }`,
  ];
  if (vector) {
    lines.push(
      `fn ${name}Quad${number}(q: u32) -> vec4<${register}> { let w = ${variable}[q]; return ${
        unpackQuad(dtype)
      }; }`,
    );
  }
  return lines;
}

function quadType(dtype: ValueType, words: number): string {
  const { word } = STORAGE[dtype];
  return words === 1 ? word : `vec${words}<${word}>`;
}

function unpackQuad(dtype: ValueType): string {
  switch (dtype) {
    case "f16":
      return "vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y))";
    case "bf16":
      return "bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u))";
    case "u8":
      return "vec4<u32>(w & 255u, (w >> 8u) & 255u, (w >> 16u) & 255u, w >> 24u)";
    case "bool":
      return "(w != vec4<u32>(0u))";
    default:
      return "w";
  }
}

/** Type of a buffer's elements where four values are stored at once. */
export function storeType(dtype: ValueType): string {
  return quadType(dtype, 4 / STORAGE[dtype].perWord);
}

/** What is stored for a vector of four values. */
export function packQuad(dtype: ValueType, v: string): string {
  switch (dtype) {
    case "f16":
      return `vec2<u32>(pack2x16float(${v}.xy), pack2x16float(${v}.zw))`;
    case "bf16":
      return `vec2<u32>(bf16Bits(${v}.x) | (bf16Bits(${v}.y) << 16u), bf16Bits(${v}.z) | (bf16Bits(${v}.w) << 16u))`;
    case "u8":
      return `((${v}.x & 255u) | ((${v}.y & 255u) << 8u) | ((${v}.z & 255u) << 16u) | (${v}.w << 24u))`;
    case "bool":
      return `select(vec4<u32>(0u), vec4<u32>(1u), ${v})`;
    default:
      return v;
  }
}

/** A kernel's source from its parts, with the functions that they call. */
export function joinSource(parts: readonly string[], functions: readonly string[]): string {
  const all = joinFunctions([LITERAL_FUNCTIONS, ...functions]);
  const body = parts.join("\n");
  const used = body.includes("bf16Bits(") ? joinFunctions([all, BF16_FUNCTION]) : all;
  return `${used}\n${body}\n`;
}
