/**
 * Parts whose leaves are computed when the first of them is asked for.
 *
 * @module
 */
import { loadTokenizer } from "../io/tokenizer.ts";
import type { Calibration } from "../methods/calibration.ts";
import type { PeftConfig } from "../methods/config.ts";
import type { InitSource, Leaf, LeafRule, Leaves, PeftMethod } from "../methods/method.ts";
import { createTorchRandom } from "../methods/torch-random.ts";
import { type ModelGraph, parameterOf } from "../model/model-graph.ts";
import { type Site, weightName } from "../model/site.ts";
import { computedTensor, once } from "../tensor/computed.ts";
import { toFloat32 } from "../tensor/convert.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { rowsOf } from "../tensor/rows.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { type AdapterLeaf, type AdapterLeaves, type Part, transposeValues } from "./parts.ts";
import type { AdapterPlan } from "./plan/plan.ts";
import type { PlannedSite } from "./plan/plan-targets.ts";

/** What leaves of a plan begin from. */
export interface LeafSources {
  /** The plan. */
  readonly plan: AdapterPlan;
  /** Seed of torch's random numbers. */
  readonly seed: number;
  /** What was measured to begin with. */
  readonly calibration?: Calibration;
}

type Rules = Readonly<Record<string, LeafRule>>;
type Made = Readonly<Record<string, Tensor>>;

/**
 * The parts of a plan at its sites and of the adapter as a whole. Shapes are known; contents come
 * from the method, for all sites in one go and in their order, so that the random numbers are those
 * of torch, when the first is read.
 */
export function lazyParts(base: ModelGraph, options: LeafSources): readonly Part[] {
  const { plan, seed } = options;
  const { method, sites } = plan;
  const made = once(() => makeAll(base, options));
  const where = placeOf(base.parameters.values());
  const lazy = (rule: LeafRule, leaf: string, id: string): Tensor => ({
    dtype: rule.whole ? "i32" : "f32",
    shape: rule.shape,
    where,
    data: async () => (await made()).get(id)![leaf].data(),
  });
  const shared = method.leaves.adapter?.(placeOfAdapter(base, plan)) ?? {};
  return [
    ...sites.map(({ site, site: { path }, keyPath, rules, tied }): Part => ({
      place: { kind: "site", path },
      leaves: leavesOf(rules, {
        start: `${keyStart(method)}${keyPath}.`,
        tied,
        contents: (rule, leaf) => lazy(rule, leaf, path),
        again: (rule, leaf, shared) =>
          computedTensor(rule.shape, async () => {
            const random = createTorchRandom(seed), weight = weightsOf(base, site);
            const made = await rule.init!({ random, weight, shared });
            const { config } = plan;
            return await toFloat32(
              checkedLeaf(made, { leaf, shape: rule.shape, config, verb: "made" }),
            );
          }, where),
      }),
    })),
    ...(Object.keys(shared).length
      ? [{
        place: { kind: "adapter" } as const,
        leaves: leavesOf(shared, { contents: (rule, leaf) => lazy(rule, leaf, "shared") }),
      }]
      : []),
  ];
}

/**
 * The part at a planned site of an adapter that is made of others: only what is trained, and nothing
 * tied.
 */
export function combinedPart(
  { site: { path }, keyPath, rules }: PlannedSite,
  method: PeftMethod,
  contents: (rule: LeafRule, leaf: string) => Tensor,
): Part {
  const trained = Object.entries(rules).filter(([, { kind }]) => kind !== "fixed");
  const start = `${keyStart(method)}${keyPath}.`;
  return {
    place: { kind: "site", path },
    leaves: leavesOf(Object.fromEntries(trained), { start, contents }),
  };
}

/** What keys of modules start with in files. */
export function keyStart({ config }: PeftMethod): string {
  return config.keyPrefix ?? "base_model.model.";
}

/** Leaves of a part as their rules say. */
function leavesOf(
  rules: Rules,
  of: {
    /** What their keys start with. */
    readonly start?: string;
    readonly tied?: PlannedSite["tied"];
    readonly contents: (rule: LeafRule, leaf: string) => Tensor;
    /** Makes one that follows others again. */
    readonly again?: (rule: LeafRule, leaf: string, shared: Leaves) => Tensor;
  },
): AdapterLeaves {
  const { start = "", tied = {}, contents, again } = of;
  const leaves = Object.entries(rules).map(([leaf, rule]): [string, AdapterLeaf] => {
    const { shape, shares, accepts, idleKeys, read, saved, takenOut, whole } = rule;
    const kind = shares ? "fixed" : rule.kind ?? "trained";
    const { key = kind === "fixed" ? null : leaf } = rule;
    const tie = shares ? { path: "shared", leaf: shares, asIs: true } : tied[leaf];
    return [leaf, {
      kind,
      shape,
      accepts,
      idleKeys,
      read,
      saved,
      takenOut,
      whole,
      key: key === null ? null : start + key,
      ...(rule.follows && again && { follows: (shared: Leaves) => again(rule, leaf, shared) }),
      ...(tie
        ? { tie: { part: tie.path, leaf: tie.leaf, transposed: !tie.asIs } }
        : kind !== "derived" && { tensor: contents(rule, leaf) }),
    }];
  });
  return Object.fromEntries(leaves);
}

function placeOfAdapter(model: ModelGraph, { config, sites }: AdapterPlan) {
  return { config, model, sites: sites.map(({ site }) => site) };
}

async function tokenize(text: string, tokenizer: string): Promise<readonly number[]> {
  return (await loadTokenizer(tokenizer)).encode(text);
}

async function makeAll(
  model: ModelGraph,
  { plan, seed, calibration }: LeafSources,
): Promise<ReadonlyMap<string, Made>> {
  const { method, config, sites } = plan;
  const random = createTorchRandom(seed);
  const make = async (rules: Rules, of: Pick<InitSource, "weight" | "shared">) => {
    const made: Record<string, Tensor> = {};
    for (const [leaf, rule] of Object.entries(rules)) {
      if (rule.kind === "derived" || rule.shares) continue;
      const contents = await rule.init?.({ ...of, random, tokenize, calibration });
      made[leaf] = checkedLeaf(contents, { leaf, shape: rule.shape, config, verb: "made" });
    }
    return made;
  };
  const all = new Map<string, Made>(), place = placeOfAdapter(model, plan);
  const shared = await make(method.leaves.adapter?.(place) ?? {}, { weight: weightsOf(model) });
  all.set("shared", shared);
  for (const { site, tied } of sites) {
    const rules = method.leaves.site?.({ ...place, site }) ?? {};
    const fresh = Object.entries(rules).filter(([leaf]) => !tied[leaf]?.asIs);
    const own = await make(Object.fromEntries(fresh), { weight: weightsOf(model, site), shared });
    all.set(site.path, own);
    // In PEFT the tied layer is initialised last and writes into what it shares.
    for (const [leaf, source] of Object.entries(tied)) {
      if (source.asIs) continue;
      const { shape } = own[leaf];
      const back = tensor(transposeValues(await toFloat32(own[leaf]), shape), {
        shape: shape.toReversed(),
      });
      all.set(source.path, { ...all.get(source.path), [source.leaf]: back });
    }
  }
  return all;
}

/** Weights of a model as leaves see them: that of a site of their own, and of others. */
export function weightsOf(model: ModelGraph, own?: Site): InitSource["weight"] {
  return async (site = own) => {
    if (!site) throw new TypeError("No site, no weight.");
    return await weightOutIn(model, site);
  };
}

/**
 * A site's weight in f32: of a linear layer as [out, in] however it is stored, of others as stored.
 */
export async function weightOutIn(model: ModelGraph, site: Site): Promise<Float32Array> {
  const stored = parameterOf(model, weightName(site));
  const values = await toFloat32(stored);
  return site.kind === "conv1d" ? transposeValues(values, stored.shape) : values;
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
  const shape = [indices.length, matrix.shape[1]];
  return computedTensor(shape, () => rowsOf(matrix, indices), placeOf([matrix]));
}

/** What was made of a leaf, which must have the shape that its method declares. */
export function checkedLeaf(
  made: Leaf | undefined,
  of: {
    readonly leaf: string;
    readonly shape: readonly number[];
    readonly config: PeftConfig;
    /** How it was made, in the words of messages. */
    readonly verb: string;
  },
): Tensor {
  const { leaf, shape, config, verb } = of;
  if (made instanceof Float32Array && made.length === sizeOf(shape)) return tensor(made, { shape });
  if (made && !(made instanceof Float32Array) && made.shape.join() === shape.join()) return made;
  throw new TypeError(
    `${config.peftType} declares the leaf ${leaf} with shape [${shape}] and ${verb} ${
      made
        ? made instanceof Float32Array ? `${made.length} elements` : `one of shape [${made.shape}]`
        : "none"
    }.`,
  );
}
