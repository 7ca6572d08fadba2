/**
 * What an adapter holds: one list of parts, each with its leaves.
 *
 * @module
 */
import type { LeafKind, LeafRule, Leaves } from "../methods/method.ts";
import { toFloat32 } from "../tensor/convert.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Another leaf of the same adapter, which holds the contents. */
export interface Tie {
  /** Its part. */
  readonly part: string;
  /** Its name there. */
  readonly leaf: string;
  /** Whether the contents count transposed. */
  readonly transposed: boolean;
}

/** One leaf of an adapter. */
export interface AdapterLeaf
  extends Pick<LeafRule, "accepts" | "idleKeys" | "read" | "saved" | "takenOut" | "whole"> {
  /** What becomes of it. */
  readonly kind: LeafKind;
  /** Its key in files; `null` where they do not hold it. */
  readonly key: string | null;
  /** Its shape. */
  readonly shape: readonly number[];
  /** Its contents; absent where it is tied or derived. */
  readonly tensor?: Tensor;
  /** The leaf that holds its contents. */
  readonly tie?: Tie;
  /** Makes it again from the leaves of the adapter as a whole, which have changed. */
  follows?(shared: Leaves): Tensor;
}

/** Leaves of a part by name. Parts that are one leaf have it under the empty name. */
export type AdapterLeaves = Readonly<Record<string, AdapterLeaf>>;

/** Where a part belongs. */
export type PartPlace =
  /** At a site. */
  | { readonly kind: "site"; readonly path: string }
  /** To the adapter as a whole. */
  | { readonly kind: "adapter" }
  /**
   * In the place of a parameter of the base: trained (saved modules, biases), or fixed, where the
   * adapter's file brought it along (`saveEmbeddingLayers`).
   */
  | { readonly kind: "parameter"; readonly name: string }
  /** In the place of rows of an embedding, or of a head that is tied to it. */
  | { readonly kind: "tokens"; readonly path: string; readonly indices: readonly number[] };

/** A part of an adapter. */
export interface Part {
  /** Where it belongs. */
  readonly place: PartPlace;
  /** What it holds. */
  readonly leaves: AdapterLeaves;
}

/** Parts by {@link partId}, sites in order of execution, then the others. */
export type Parts = ReadonlyMap<string, Part>;

/** What holds parts. */
export interface HasParts {
  /** The parts. */
  readonly parts: Parts;
}

/** The name of a part: what its leaves' names in programs start with. */
export function partId(place: PartPlace): string {
  switch (place.kind) {
    case "site":
      return place.path;
    case "adapter":
      return "shared";
    case "parameter":
      return `param.${place.name}`;
    case "tokens":
      return `tokens.${place.path}`;
  }
}

/** Parts under their names. */
export function partsOf(list: Iterable<Part>): Parts {
  return new Map([...list].map((part) => [partId(part.place), part]));
}

/** The contents of a leaf. */
export function tensorOf(adapter: HasParts, leaf: AdapterLeaf, among?: AdapterLeaves): Tensor {
  if (leaf.tensor) return leaf.tensor;
  if (!leaf.tie) return leaf.saved!(held(adapter, among!));
  const own = tensorOf(adapter, adapter.parts.get(leaf.tie.part)!.leaves[leaf.tie.leaf]);
  return leaf.tie.transposed ? transposed(own) : own;
}

function held(adapter: HasParts, leaves: AdapterLeaves): Leaves {
  const present = Object.entries(leaves).filter(([, leaf]) => leaf.kind !== "derived");
  return Object.fromEntries(present.map(([name, leaf]) => [name, tensorOf(adapter, leaf)]));
}

/** The contents of all leaves of a part, fixed and tied ones too; `undefined` where it does not exist. */
export function leavesAt(adapter: HasParts, id: string): Leaves | undefined {
  const part = adapter.parts.get(id);
  return part && held(adapter, part.leaves);
}

/** The part at a site, where the adapter takes part there. */
export function sitePart({ parts }: HasParts, path: string): Part | undefined {
  const part = parts.get(path);
  return part?.place.kind === "site" ? part : undefined;
}

/** All leaves, in the order of their parts: each with its part, the part's name and its own. */
export function leavesOf({ parts }: HasParts): readonly {
  readonly part: Part;
  readonly id: string;
  readonly name: string;
  readonly leaf: AdapterLeaf;
}[] {
  return [...parts].flatMap(([id, part]) =>
    Object.entries(part.leaves).map(([name, leaf]) => ({ part, id, name, leaf }))
  );
}

/** Parts of these kinds, in their order. */
export function partsOfKind<K extends PartPlace["kind"]>(
  { parts }: HasParts,
  ...kinds: readonly K[]
): readonly (Part & { readonly place: PartPlace & { readonly kind: K } })[] {
  return [...parts.values()].filter((
    part,
  ): part is Part & { readonly place: PartPlace & { readonly kind: K } } =>
    (kinds as readonly string[]).includes(part.place.kind)
  );
}

/** Paths of the sites that an adapter takes part at. */
export function adaptedPaths(adapter: HasParts): readonly string[] {
  return partsOfKind(adapter, "site").map(({ place }) => place.path);
}

/** Names of the parameters that an adapter takes part at as it does at sites. */
export function adaptedParameters(
  adapter: HasParts,
  { sites }: { readonly sites: ReadonlyMap<string, unknown> },
): readonly string[] {
  return adaptedPaths(adapter).filter((path) => !sites.has(path));
}

/** What stands for a parameter of the base; `undefined` where nothing does. */
export function parameterPart({ parts }: HasParts, name: string): Part | undefined {
  return parts.get(`param.${name}`);
}

/** What stands for rows of the embedding or head at a path. */
export function tokensPart(
  { parts }: HasParts,
  path: string,
): (Part & { readonly place: PartPlace & { readonly kind: "tokens" } }) | undefined {
  const part = parts.get(`tokens.${path}`);
  return part as ReturnType<typeof tokensPart>;
}

/** The tensor of a part that is one leaf, and the name of the part that holds it. */
export function single(
  adapter: HasParts,
  part: Part,
): { readonly tensor: Tensor; readonly owner: string; readonly leaf: AdapterLeaf } {
  const leaf = part.leaves[""];
  return {
    tensor: tensorOf(adapter, leaf),
    owner: leaf.tie?.part ?? partId(part.place),
    leaf,
  };
}

/** Names of the parameters that an adapter trains as a whole. */
export function trainedParameters(adapter: HasParts): readonly string[] {
  return partsOfKind(adapter, "parameter").filter(({ leaves }) => leaves[""].kind === "trained")
    .map(({ place }) => place.name);
}

/** The same parts with other contents: `change` gives them, or what it was given, leaf by leaf. */
export function mapLeaves(
  parts: Parts,
  change: (
    tensor: Tensor,
    at: { readonly leaf: AdapterLeaf; readonly name: string; readonly id: string },
  ) => Tensor,
): Parts {
  return new Map([...parts].map(([id, part]) => {
    let changed = false;
    const leaves = Object.entries(part.leaves).map(([name, leaf]): [string, AdapterLeaf] => {
      if (!leaf.tensor) return [name, leaf];
      const tensor = change(leaf.tensor, { leaf, name, id });
      changed ||= tensor !== leaf.tensor;
      return [name, tensor === leaf.tensor ? leaf : { ...leaf, tensor, shape: tensor.shape }];
    });
    return [id, changed ? { ...part, leaves: Object.fromEntries(leaves) } : part];
  }));
}

/** A part that holds just these leaves, which it had with other contents. */
export function withContents<P extends Part>(part: P, contents: Leaves): P {
  const leaves = Object.entries(contents).map(([name, tensor]): [string, AdapterLeaf] => {
    const { tie: _, ...rest } = part.leaves[name];
    return [name, { ...rest, tensor, shape: tensor.shape }];
  });
  return { ...part, leaves: Object.fromEntries(leaves) };
}

/** The transpose of a matrix, whose contents are read when its own are asked for. */
export function transposed(matrix: Tensor): Tensor {
  const { shape } = matrix;
  return {
    dtype: "f32",
    shape: [shape[1], shape[0]],
    where: matrix.where,
    data: async () => transposeValues(await toFloat32(matrix), shape),
  };
}

/** The elements of a matrix of this shape, transposed. */
export function transposeValues(
  values: Float32Array,
  shape: readonly number[],
): Float32Array<ArrayBuffer> {
  const [rows, columns] = shape;
  const out = new Float32Array(values.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) out[j * rows + i] = values[i * columns + j];
  }
  return out;
}
