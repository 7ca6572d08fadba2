/**
 * What programs and the kernels for them are made of: nodes of primitive operations over shaped values.
 *
 * @module
 */
import type { ScalarType } from "../lib/tensor/dtype.ts";

/** The types that values inside a program have. */
export type ValueType = Extract<ScalarType, "f32" | "f16" | "bf16" | "i32" | "u32" | "u8" | "bool">;

/** A shape and an element type. */
export interface Spec {
  /** Dimensions, outermost first. */
  readonly shape: readonly number[];
  /** Element type. */
  readonly dtype: ValueType;
}

/** Plain data that belongs to a node beside its inputs; part of its identity. */
export type Attribute =
  | string
  | number
  | boolean
  | null
  | readonly Attribute[]
  | { readonly [key: string]: Attribute };

/** Attributes by name. */
export type Attributes = Readonly<Record<string, Attribute>>;

/**
 * One node of a program: an operation, its inputs and its attributes. Within one {@link Graph} two nodes of the same operation,
 * inputs and attributes are the same object.
 */
export interface Value extends Spec {
  /** Position in the graph's creation order; inputs always have lower numbers. */
  readonly id: number;
  /** Name of the primitive in the registry of operations. */
  readonly op: string;
  /** What the operation reads. */
  readonly inputs: readonly Value[];
  /** Attributes of the operation. */
  readonly attributes: Attributes;
  /** The graph that the node belongs to. */
  readonly graph: Graph;
}

/**
 * Where nodes are interned while a function is traced. It grows only; a finished {@link Program} keeps
 * the nodes that its outputs reach.
 */
export interface Graph {
  /** Gives the node of this operation, making it when it does not exist yet. */
  node(op: string, inputs: readonly Value[], attributes: Attributes, spec: Spec): Value;
}
