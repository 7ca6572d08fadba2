/**
 * Programs that differ in lengths only share a session. Of two such graphs all nodes are the same, and what differs are dimensions and the constants that
 * shapes are made of: in a third graph the dimensions have names, and those constants are inputs. ONNX Runtime runs it as fast and in as little memory,
 * and opens it once for all lengths.
 *
 * @module
 */
import { sameShape } from "../../ops/shapes.ts";
import { type Lowered, sameContents } from "./lower.ts";
import type { OnnxGraph, OnnxInitializer, OnnxValueInfo } from "./onnx-model.ts";
import type { PlanSession } from "./session.ts";

/** A graph that is opened for several programs, and what one of them feeds it beside its inputs. */
export interface Shared {
  readonly graph: OnnxGraph;
  /** The graph's sessions, one for each choice of weights that are part of it. */
  readonly sessions: PlanSession[];
  /** Constants of the program that are inputs of the graph. */
  readonly constants: readonly OnnxInitializer[];
}

/** Finds the graph that a program can share. */
export interface Families {
  /** A graph that has run a program of the same structure, or the program's own. */
  join(lowered: Lowered): Shared;
}

interface Family {
  readonly first: Lowered;
  readonly own: Shared;
  general: General | null;
}

/** A graph for all lengths. */
interface General {
  readonly graph: OnnxGraph;
  readonly sessions: PlanSession[];
  /** Names of the constants that are inputs. */
  readonly varying: ReadonlySet<string>;
  /** Shapes with names for what varies, in the order of {@link shapesOf}. */
  readonly shapes: readonly (readonly (number | string)[])[];
}

/** No families yet. */
export function createFamilies(): Families {
  const families = new Map<string, Family[]>();
  return {
    join(lowered) {
      const key = structureOf(lowered);
      const known = families.get(key) ?? [];
      families.set(key, known);
      for (const family of known) {
        if (isEqual(family.first, lowered)) return family.own;
        family.general ??= generalOf(family.first, lowered);
        const constants = fits(family.general, family.first, lowered);
        if (constants) {
          const { graph, sessions } = family.general;
          return { graph, sessions, constants };
        }
      }
      const own = { graph: lowered.graph, sessions: [], constants: [] };
      known.push({ first: lowered, own, general: null });
      return own;
    },
  };
}

/** A text that is equal for graphs of the same nodes, whatever the sizes are. */
function structureOf({ graph, values, embedded }: Lowered): string {
  const lines = graph.nodes.map((n) =>
    `${n.domain}${n.operator}(${n.inputs})${JSON.stringify(n.attributes)}${n.outputs}`
  );
  const named = (infos: readonly OnnxValueInfo[]) =>
    lines.push(infos.map((i) => `${i.name}:${i.type}${i.shape.length}`).join());
  named(graph.inputs);
  named(graph.outputs);
  named(graph.initializers);
  named(embedded);
  named(values);
  return lines.join("\n");
}

/** All shapes of a lowered program, in an order that programs of one structure share. */
function shapesOf({ graph, values }: Lowered): readonly (readonly number[])[] {
  return [...graph.inputs, ...graph.outputs, ...values].map((i) => i.shape);
}

function isEqual(a: Lowered, b: Lowered): boolean {
  const shapes = shapesOf(b);
  return shapesOf(a).every((s, i) => sameShape(s, shapes[i])) &&
    a.graph.initializers.every((x, i) => sameConstant(x, b.graph.initializers[i]));
}

function sameConstant(a: OnnxInitializer, b: OnnxInitializer): boolean {
  return sameShape(a.shape, b.shape) && sameContents(a.data!, b.data!);
}

/** The graph of two programs of one structure: what differs between them has a name, and what differs alike has the same one. */
function generalOf(a: Lowered, b: Lowered): General {
  const named = (shape: readonly number[], other: readonly number[]) =>
    shape.map((d, i) => d === other[i] ? d : `${d} or ${other[i]}`);
  const infos = (of: readonly OnnxValueInfo<number>[], other: readonly OnnxValueInfo<number>[]) =>
    of.map((info, i) => ({ ...info, shape: named(info.shape, other[i].shape) }));
  const varying = a.graph.initializers.filter((x, i) => !sameConstant(x, b.graph.initializers[i]));
  const names = new Set(varying.map((x) => x.name));
  const graph = {
    ...a.graph,
    inputs: [
      ...infos(a.graph.inputs, b.graph.inputs),
      ...varying.map(({ name, type, shape }, i) => ({
        name,
        type,
        shape: shape.map((_, axis) => `constant ${i} ${axis}`),
      })),
    ],
    outputs: infos(a.graph.outputs, b.graph.outputs),
    initializers: a.graph.initializers.filter((x) => !names.has(x.name)),
    // Without these the runtime could not tell which buffers it may use again.
    values: infos(a.values, b.values),
  };
  const other = shapesOf(b);
  const shapes = shapesOf(a).map((s, i) => named(s, other[i]));
  return { graph, sessions: [], varying: names, shapes };
}

/** What a program feeds a general graph, or null where it is not one of those that the graph stands for. */
function fits(general: General, first: Lowered, lowered: Lowered): OnnxInitializer[] | null {
  const meaning = new Map<string, number>();
  const shapes = shapesOf(lowered);
  for (const [n, shape] of general.shapes.entries()) {
    for (const [i, d] of shape.entries()) {
      const found = shapes[n][i];
      if (typeof d === "number" ? d !== found : (meaning.get(d) ?? found) !== found) return null;
      if (typeof d === "string") meaning.set(d, found);
    }
  }
  const constants: OnnxInitializer[] = [];
  for (const [i, constant] of lowered.graph.initializers.entries()) {
    if (general.varying.has(constant.name)) constants.push(constant);
    else if (!sameConstant(constant, first.graph.initializers[i])) return null;
  }
  return constants;
}
