/**
 * From a program to an ONNX graph.
 *
 * @module
 */
import { operationOf } from "../../ops/mod.ts";
import {
  type OnnxAttributes,
  type OnnxContext,
  type OnnxType,
  onnxTypeOf,
} from "../../ops/onnx-rule.ts";
import { sameShape } from "../../ops/shapes.ts";
import type { Spec, Value } from "../../ops/value.ts";
import type { Program } from "../../program/program.ts";
import { arrayOf, dtypeOf, sizeOf, type TypedArray } from "../../tensor/dtype.ts";
import { type MaskInput, maskInput } from "./dropout.ts";
import { fuse } from "./fusions.ts";
import { mergeProducts } from "./merge-products.ts";
import type { OnnxGraph, OnnxInitializer, OnnxNode, OnnxValueInfo } from "./onnx-model.ts";
import { prepare } from "./prepare.ts";

/** An initializer whose contents are those of a weight, which are known when the program first runs. */
export interface EmbeddedWeight extends OnnxValueInfo<number> {
  /** Names of the program's inputs; the contents of several lie one after the other. */
  readonly sources: readonly string[];
  /** Makes the contents from the weight's. */
  readonly prepare: (data: TypedArray) => TypedArray;
}

/** An output of the graph. */
export interface LoweredOutput extends Spec {
  /** Name in the ONNX graph. */
  readonly onnx: string;
}

/** A program as an ONNX graph. */
export interface Lowered {
  readonly graph: OnnxGraph<number>;
  /** Where each output of the program is. */
  readonly outputs: ReadonlyMap<string, LoweredOutput>;
  /** Shapes of values between, as far as they are known. */
  readonly values: readonly OnnxValueInfo<number>[];
  /** Initializers that {@link Lowered.graph} lacks. */
  readonly embedded: readonly EmbeddedWeight[];
  /** Inputs of the graph that the program does not have. */
  readonly masks: readonly MaskInput[];
}

/** How a program is lowered. */
export interface LowerOptions {
  /** Which weights may become initializers: those that operators are only fast with as constants, all, or none. */
  readonly embed: "packed" | "all" | "none";
  /** Whether dropout masks are inputs, which the host makes, and not part of the graph. */
  readonly hostMasks: boolean;
}

/** Lowers a program. Inputs of the graph are the inputs that it needs, under their own names. */
export function lower(program: Program, options: LowerOptions): Lowered {
  const prepared = options.embed === "packed" ? mergeProducts(prepare(program)) : prepare(program);
  const uses = countUses(prepared);
  const builder = createBuilder(options);
  for (const node of prepared.nodes) builder.add(node, uses);
  return builder.finish(prepared);
}

function countUses(program: Program): ReadonlyMap<Value, number> {
  const uses = new Map<Value, number>();
  const use = (v: Value) => uses.set(v, (uses.get(v) ?? 0) + 1);
  for (const node of program.nodes) node.inputs.forEach(use);
  for (const v of program.outputs.values()) use(v);
  return uses;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

function createBuilder(options: LowerOptions) {
  const names = new Map<Value, string>();
  const nodes: Mutable<OnnxNode>[] = [];
  const emitted = new Map<string, string>();
  const initializers = new Map<string, OnnxInitializer>();
  const inputs = new Map<string, OnnxValueInfo<number>>();
  const embedded = new Map<string, EmbeddedWeight>();
  const masks = new Map<string, MaskInput>();
  const states = new Set<string>();
  /** Shapes and types of values of the program, and what reshapes are views of. */
  const shapes = new Map<string, readonly number[]>();
  const types = new Map<string, OnnxType>();
  const viewed = new Map<string, string>();
  const lists = new Map<string, readonly number[]>();
  let count = 0;

  function constant(data: TypedArray, shape: readonly number[], type?: OnnxType): string {
    const element = type ?? dtypeOf(data) as OnnxType;
    let key = `${element}[${shape}]${digest(data)}`;
    for (let known; (known = initializers.get(key)); key += "+") {
      if (sameContents(known.data!, data)) return known.name;
    }
    const name = `%c${initializers.size}`;
    initializers.set(key, { name, type: element, shape, data });
    return name;
  }

  function ints(values: readonly number[]): string {
    const name = constant(BigInt64Array.from(values, BigInt), [values.length]);
    lists.set(name, values);
    return name;
  }

  function define(node: Value, name: string): void {
    names.set(node, name);
    shapes.set(name, node.shape);
    types.set(name, onnxTypeOf(node.dtype));
  }

  function context(node: Value): OnnxContext {
    const scope = node.attributes.recomputed ? "again " : "";
    const embeddable = (index: number) =>
      options.embed !== "none" && weightsOf(node.inputs[index]).length > 0;
    return {
      node,
      inputs: node.inputs.map((v) => names.get(v)!),
      emit(operator, args, attributes = {}, domain = "") {
        const view = operator === "Reshape" ? lists.get(args[1]) : undefined;
        if (view) {
          const source = viewed.get(args[0]) ?? args[0];
          const shape = shapes.get(source);
          if (shape && sameShape(shape, view)) return source;
          args = [source, args[1]];
        }
        const key = `${scope}${operator}(${args.join()})${attributeText(attributes)}`;
        const known = emitted.get(key);
        if (known) return known;
        const output = `%${count++}`;
        nodes.push({
          operator,
          domain,
          name: `${node.op}#${count}`,
          inputs: args,
          outputs: [output],
          attributes,
        });
        emitted.set(key, output);
        if (view) {
          viewed.set(output, args[0]);
          shapes.set(output, view);
          if (types.has(args[0])) types.set(output, types.get(args[0])!);
        }
        return output;
      },
      constant,
      ints,
      scalar: (value, type = "f32") => constant(arrayOf(type, [value]), [], type),
      embeddable,
      embed(index, { shape, type, label, prepare }) {
        const sources = weightsOf(node.inputs[index]);
        const name = `%${sources.join("+")}:${label}`;
        embedded.set(name, { name, type, shape, sources, prepare });
        return name;
      },
    };
  }

  function emitHostMask({ node, emit, scalar, ints }: OnnxContext): string {
    const size = sizeOf(node.shape), { rate } = node.attributes as { rate: number };
    const [seed, first] = node.inputs.map(({ attributes }) => attributes.name as string);
    const rows = first === undefined ? {} : { rows: { first, size: size / node.shape[0] } };
    const key = `${rate} ${node.attributes.stream} ${seed} ${first} ${node.shape}`;
    const mask = masks.get(key) ??
      maskInput(node.attributes, { seed, size, ...rows, number: masks.size });
    masks.set(key, mask);
    inputs.set(mask.name, { name: mask.name, type: "u8", shape: [size] });
    const values = emit("DequantizeLinear", [mask.name, scalar(1 / (1 - rate))]);
    return emit("Reshape", [values, ints(node.shape)]);
  }

  /**
   * Gives states the shape that they are used in. A reshape of what comes from outside is a copy, which for the caches of decoding is all of them in each
   * step.
   */
  function withoutInputReshapes(live: readonly OnnxNode[]): readonly OnnxNode[] {
    if (options.embed !== "packed") return live;
    const renamed = new Map<string, string>();
    for (const name of states) {
      const users = live.filter((n) => n.inputs.includes(name));
      const shape = shapes.get(users[0]?.outputs[0]);
      const agreed = shape &&
        users.every((n) =>
          n.operator === "Reshape" && viewed.get(n.outputs[0]) === name &&
          sameShape(shapes.get(n.outputs[0])!, shape)
        );
      if (!agreed) continue;
      for (const { outputs: [view] } of users) renamed.set(view, name);
      inputs.set(name, { ...inputs.get(name)!, shape });
    }
    return live.filter((n) => !renamed.has(n.outputs[0])).map((n) => ({
      ...n,
      inputs: n.inputs.map((i) => renamed.get(i) ?? i),
    }));
  }

  return {
    add(node: Value, uses: ReadonlyMap<Value, number>): void {
      if (node.op === "input") {
        const name = node.attributes.name as string;
        inputs.set(name, { name, type: onnxTypeOf(node.dtype), shape: node.shape });
        if (node.attributes.role === "state") states.add(name);
        define(node, name);
        if (options.embed === "all" && node.attributes.role === "weight") {
          embedded.set(name, {
            ...inputs.get(name)!,
            sources: [name],
            prepare: (data) => data,
          });
          inputs.delete(name);
        }
        return;
      }
      const here = context(node);
      if (
        node.op === "dropoutMask" && options.hostMasks &&
        node.inputs.every(({ op }) => op === "input")
      ) {
        return define(node, emitHostMask(here));
      }
      const name = fuse(node, { context: here, uses, nameOf: (v) => names.get(v)! });
      if (name !== undefined) return define(node, name);
      const rule = operationOf(node).onnx;
      if (!rule || !("emit" in rule)) {
        throw new TypeError(`The operation "${node.op}" has no rule that emits ONNX.`);
      }
      define(node, rule.emit(here));
    },

    finish(program: Program): Lowered {
      const outputs = new Map<string, LoweredOutput>();
      const infos: OnnxValueInfo<number>[] = [];
      const taken = new Set(program.inputs.keys());
      for (const [name, value] of program.outputs) {
        let onnx = name;
        while (taken.has(onnx)) onnx += "'";
        taken.add(onnx);
        // The name of an output belongs to one node that makes it.
        nodes.push({
          operator: "Identity",
          domain: "",
          name: `output#${++count}`,
          inputs: [names.get(value)!],
          outputs: [onnx],
          attributes: {},
        });
        infos.push({ name: onnx, type: onnxTypeOf(value.dtype), shape: value.shape });
        outputs.set(name, { onnx, shape: value.shape, dtype: value.dtype });
      }
      const joined = joinOutputs(nodes, new Set(infos.map((o) => o.name)));
      const live = withoutInputReshapes(dropDead(joined, infos));
      const used = new Set(live.flatMap((n) => n.inputs));
      const given = new Set([...inputs.keys(), ...infos.map((o) => o.name)]);
      const between = live.flatMap((n) => n.outputs).filter((o) => types.has(o) && !given.has(o));
      return {
        graph: {
          nodes: live,
          inputs: [...inputs.values()].filter((i) => used.has(i.name)),
          outputs: infos,
          initializers: [...initializers.values()].filter((i) => used.has(i.name)),
        },
        outputs,
        values: between.map((name) => ({ name, type: types.get(name)!, shape: shapes.get(name)! })),
        embedded: [...embedded.values()].filter((e) => used.has(e.name)),
        masks: [...masks.values()].filter((m) => used.has(m.name)),
      };
    },
  };
}

/** The names of the weights that a value is, or is the rows of one after the other; none where it is something else. */
function weightsOf(value: Value): readonly string[] {
  if (value.op === "input") {
    return value.attributes.role === "weight" ? [value.attributes.name as string] : [];
  }
  if (value.op !== "concat" || value.attributes.axis !== 0) return [];
  const parts = value.inputs.map(weightsOf);
  return parts.every((names) => names.length > 0) ? parts.flat() : [];
}

/** Lets a node make an output itself where it is only copied into it. */
function joinOutputs(
  nodes: readonly Mutable<OnnxNode>[],
  outputs: ReadonlySet<string>,
): readonly OnnxNode[] {
  const producer = new Map(nodes.flatMap((n) => n.outputs.map((o) => [o, n] as const)));
  const renamed = new Map<string, string>();
  const kept = nodes.filter((n) => {
    if (n.operator !== "Identity" || !outputs.has(n.outputs[0])) return true;
    const from = n.inputs[0];
    if (!producer.has(from) || renamed.has(from)) return true;
    renamed.set(from, n.outputs[0]);
    return false;
  });
  const rename = (names: readonly string[]) => names.map((n) => renamed.get(n) ?? n);
  return kept.map((n) => ({ ...n, inputs: rename(n.inputs), outputs: rename(n.outputs) }));
}

/** Drops nodes that no output needs, such as those that a fusion made superfluous. */
function dropDead(nodes: readonly OnnxNode[], outputs: readonly OnnxValueInfo[]): OnnxNode[] {
  const needed = new Set(outputs.map((o) => o.name));
  const live: OnnxNode[] = [];
  for (let i = nodes.length - 1; i >= 0; i--) {
    if (!nodes[i].outputs.some((o) => needed.has(o))) continue;
    for (const name of nodes[i].inputs) needed.add(name);
    live.push(nodes[i]);
  }
  return live.reverse();
}

function attributeText(attributes: OnnxAttributes): string {
  let text = "";
  for (const key in attributes) text += ` ${key}=${JSON.stringify(attributes[key])}`;
  return text;
}

/** A number that equal contents share, and few others do. */
function digest(data: TypedArray): number {
  const { buffer, byteOffset, byteLength } = data;
  const bytes = new Uint8Array(buffer, byteOffset, byteLength);
  let hash = 0;
  for (let i = 0; i < bytes.length; i++) hash = Math.imul(hash ^ bytes[i], 0x01000193);
  return hash >>> 0;
}

/** Whether two arrays hold the same, bit for bit. */
export function sameContents(a: TypedArray, b: TypedArray): boolean {
  return a.length === b.length && a.every((v: number | bigint, i: number) => Object.is(v, b[i]));
}
