/**
 * Leaves that are computed when the first of them is asked for.
 *
 * @module
 */
import type { Calibration } from "../methods/calibration.ts";
import type { Leaves, PeftMethod, SiteLeaves } from "../methods/method.ts";
import { createTorchRandom } from "../methods/torch-random.ts";
import { type ModelGraph, parameterOf } from "../model/model-graph.ts";
import type { Site } from "../model/site.ts";
import { toFloat32 } from "../tensor/convert.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { AdapterPlan } from "./plan/plan.ts";
import type { PlannedSite } from "./plan/plan-targets.ts";

/**
 * The leaves of a plan. Shapes are known; contents come from the method, for all sites
 * in one go and in their order, so that the random numbers are those of torch, when the first is
 * read.
 *
 * @param base The base.
 * @param options The plan, a seed, what was measured to begin with, and whether the trained leaves
 * come from elsewhere, so that only the fixed ones need computing.
 */
export function lazyLeaves(
  base: ModelGraph,
  options: LeafSources & { readonly loaded?: boolean },
): AdapterLeaves {
  const { plan: { method, sites, shared } } = options;
  const initial = once(() => makeAll(base, options, method));
  const fixed = options.loaded ? once(() => makeAll(base, options, fixedPart(method))) : initial;
  const where = placeOf(base.parameters.values());
  const lazy = (
    shapes: PlannedSite["leaves"],
    read: (leaf: string) => Promise<Tensor>,
  ): Record<string, Tensor> =>
    Object.fromEntries(
      Object.entries(shapes).map(([leaf, shape]) => [leaf, {
        dtype: "f32",
        shape,
        where,
        data: async () => (await checked(read(leaf), { leaf, shape, method })).data(),
      }]),
    );
  return {
    shared: {
      leaves: lazy(shared.leaves, async (leaf) => (await initial()).shared.leaves[leaf]),
      frozen: lazy(shared.frozen, async (leaf) => (await fixed()).shared.frozen[leaf]),
    },
    sites: new Map(sites.map((planned) => {
      const { path } = planned.site;
      return [path, {
        leaves: lazy(
          planned.leaves,
          async (leaf) => (await initial()).sites.get(path)!.leaves[leaf],
        ),
        frozen: lazy(
          planned.frozen,
          async (leaf) => (await fixed()).sites.get(path)!.frozen[leaf],
        ),
        ...(Object.keys(planned.tied).length ? { tied: planned.tied } : {}),
      }];
    })),
  };
}

/** What an adapter holds: leaves of its sites, and of itself as a whole. */
export interface AdapterLeaves {
  /** By module path, in order of execution. */
  readonly sites: ReadonlyMap<string, SiteLeaves>;
  /** Of no site. */
  readonly shared: SiteLeaves;
}

interface LeafSources {
  readonly plan: AdapterPlan;
  readonly seed: number;
  readonly calibration?: Calibration;
}

type Maker = Pick<PeftMethod, "init" | "initShared">;

const NO_LEAVES: SiteLeaves = { leaves: {}, frozen: {} };

/** Makes the fixed leaves only, where the method can do that alone. */
function fixedPart(method: PeftMethod): Maker {
  return {
    init: async (context) =>
      method.frozen
        ? { leaves: {}, frozen: await method.frozen(context) }
        : await method.init(context),
    initShared: async (context) =>
      method.frozenShared
        ? { leaves: {}, frozen: await method.frozenShared(context) }
        : await method.initShared?.(context) ?? NO_LEAVES,
  };
}

async function makeAll(
  model: ModelGraph,
  options: LeafSources,
  maker: Maker,
): Promise<AdapterLeaves> {
  const { plan: { config, sites }, seed, calibration } = options;
  const random = createTorchRandom(seed);
  const shared = await maker.initShared?.({
    config,
    model,
    sites: sites.map(({ site }) => site),
    random,
  }) ?? NO_LEAVES;
  const made = new Map<string, SiteLeaves>();
  for (const { site, tied } of sites) {
    const weight = () => weightOutIn(model, site);
    const all = await maker.init({ site, config, model, random, weight, calibration });
    made.set(site.path, all);
    // In PEFT the tied layer is initialised last and writes into what it shares.
    for (const [leaf, source] of Object.entries(tied)) {
      const own = made.get(source.path)!;
      if (!all.leaves[leaf]) continue;
      const leaves: Leaves = { ...own.leaves, [source.leaf]: transposed(all.leaves[leaf]) };
      made.set(source.path, { ...own, leaves });
    }
  }
  return { sites: made, shared };
}

/**
 * A site's weight in f32: of a linear layer as [out, in] however it is stored, of others as stored.
 */
export async function weightOutIn(model: ModelGraph, site: Site): Promise<Float32Array> {
  const stored = parameterOf(model, `${site.path}.weight`);
  const values = await toFloat32(stored);
  return site.kind === "conv1d" ? transposeValues(values, stored.shape) : values;
}

/**
 * All leaves of one site of an adapter, trained and fixed ones, with those that are tied to another
 * site's as their transposes; `undefined` where the adapter does not adapt it.
 */
export function leavesAt(
  sites: ReadonlyMap<string, SiteLeaves>,
  path: string,
): Leaves | undefined {
  const entry = sites.get(path);
  if (!entry) return undefined;
  const tied = Object.entries(entry.tied ?? {}).map(([leaf, source]) => [
    leaf,
    transposed(sites.get(source.path)!.leaves[source.leaf]),
  ]);
  return { ...entry.frozen, ...entry.leaves, ...Object.fromEntries(tied) };
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

function transposeValues(values: Float32Array, shape: readonly number[]): Float32Array {
  const [rows, columns] = shape;
  const out = new Float32Array(values.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) out[j * rows + i] = values[i * columns + j];
  }
  return out;
}

/**
 * Where what follows from these tensors is: computed on a device where one of them is, as the
 * weights of a merged model are.
 */
function placeOf(tensors: Iterable<Tensor>): Tensor["where"] {
  return [...tensors].some(({ where }) => where === "device") ? "device" : "host";
}

/** Rows of a matrix, read when they are asked for, once. */
export function gatheredRows(matrix: Tensor, indices: readonly number[]): Tensor {
  const width = matrix.shape[1];
  const read = once(async () => {
    const values = await toFloat32(matrix);
    const rows = new Float32Array(indices.length * width);
    indices.forEach((row, i) =>
      rows.set(values.subarray(row * width, (row + 1) * width), i * width)
    );
    return rows;
  });
  return { dtype: "f32", shape: [indices.length, width], where: placeOf([matrix]), data: read };
}

async function checked(
  found: Promise<Tensor | undefined>,
  of: { readonly leaf: string; readonly shape: readonly number[]; readonly method: PeftMethod },
): Promise<Tensor> {
  const made = await found;
  if (made?.shape.join() === of.shape.join()) return made!;
  throw new TypeError(
    `${of.method.peftType} declares the leaf ${of.leaf} with shape [${of.shape}] and made ${
      made ? `one of shape [${made.shape}]` : "none"
    }.`,
  );
}

/** Runs something at most once, and again only after it failed. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let pending: Promise<T> | undefined;
  return () => {
    pending ??= make().catch((error) => {
      pending = undefined;
      throw error;
    });
    return pending;
  };
}
