/**
 * One adapter made of several, by the rule of their method: what all ways of combining share.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import type { CombineOptions, CombinePart, CombineRule } from "../../methods/combine.ts";
import type { PeftConfig, TargetConfig } from "../../methods/config.ts";
import type { LeafRule, PeftMethod } from "../../methods/method.ts";
import type { RegistryOptions } from "../../methods/mod.ts";
import { createTorchRandom, type TorchRandom } from "../../methods/torch-random.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { weakly } from "../../tensor/computed.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { planOfParts } from "./combined-plan.ts";
import { checkedLeaf, combinedPart, weightOutIn } from "../lazy-leaves.ts";
import { adaptedParameters, leavesAt, type Part, partsOf, sitePart } from "../parts.ts";
import { type Adapter, type PeftModel, pristineBase } from "../peft-model.ts";
import type { PlannedSite } from "../plan/plan-targets.ts";
import { adapterOf } from "../select.ts";

/** Adapters that are to be combined, and how. */
export interface Combination extends RegistryOptions {
  /** Names of the adapters. */
  readonly adapters: readonly string[];
  /** A weight for each. */
  readonly weights: readonly number[];
  /** Name of the combined adapter. */
  readonly adapterName: string;
  /** How; so that the sum of what they add is exact by default. */
  readonly options?: CombineOptions;
  /** Seed of random numbers; 0 by default. */
  readonly seed?: number;
}

// deno-lint-ignore no-explicit-any -- a rule knows the configs of its own method only
type Rule = CombineRule<any>;

/**
 * The rule of the method that adapters share.
 *
 * @param verb What is tried, in the words of messages.
 * @throws {ValueError} for a name that does not exist.
 * @throws {UnsupportedError} where the methods differ, or the method cannot be combined.
 */
export function ruleOf(
  model: PeftModel,
  names: readonly string[],
  verb: string,
): { readonly rule: Rule; readonly method: PeftMethod } {
  const adapters = names.map((name) => adapterOf(model, name));
  const [{ method, config: { peftType } }] = adapters;
  const other = adapters.find((adapter) => adapter.config.peftType !== peftType);
  if (other) {
    throw new UnsupportedError(
      "COMBINE_METHODS",
      `Only adapters of one method can be combined; ${JSON.stringify(names[0])} is ` +
        `${peftType} and ${JSON.stringify(other.name)} is ${other.config.peftType}. ` +
        "Activate them together with setAdapter instead, where their methods allow it.",
      { adapters: names, methods: adapters.map((adapter) => adapter.config.peftType) },
    );
  }
  if (!method.combine) {
    throw new UnsupportedError(
      "COMBINE_METHOD",
      `Adapters of the method ${peftType} cannot be ${verb} (${
        names.map((name) => JSON.stringify(name)).join(", ")
      }): the method has no rule for it.`,
      { peftType, adapters: names },
    );
  }
  return { rule: method.combine, method };
}

/**
 * An adapter as a part of a combination.
 *
 * @param model A model that holds the adapter.
 * @param name The adapter's name.
 * @param weight How much it counts.
 */
export function partOf(
  model: PeftModel,
  name: string,
  weight: number,
): CombinePart<TargetConfig> {
  const adapter = adapterOf(model, name);
  const base = pristineBase(model), [parameter] = adaptedParameters(adapter, base);
  if (parameter) {
    throw new UnsupportedError(
      "COMBINE_PARAMETERS",
      `The adapter ${
        JSON.stringify(name)
      } adapts the parameter ${parameter} (targetParameters), and such adapters ` +
        "are not combined, as in PEFT. Merge them into the base, or activate them together.",
      { adapter: name, parameter },
    );
  }
  return {
    adapter: name,
    config: adapter.config as TargetConfig,
    weight,
    multiplier: model.multipliers.get(name) ?? 1,
    sites: [...base.sites.values()].filter(({ path }) => sitePart(adapter, path)),
    leavesAt: (path) => leavesAt(adapter, path),
  };
}

/**
 * Combines adapters into one. Everything is checked at once; leaves are computed when they are
 * read, and kept only as long as somebody holds them.
 *
 * @param model A model that holds the adapters.
 * @param combination See {@link Combination}.
 * @throws {ValueError} where they cannot be combined in this way.
 * @throws {UnsupportedError} where no single adapter can stand for them.
 */
export function combineAdapters(model: PeftModel, combination: Combination): Adapter {
  const { adapters, weights, adapterName, seed = 0, registry } = combination;
  const { rule, method } = ruleOf(model, adapters, "combined");
  const exact: CombineOptions = { combinationType: rule.exact, majoritySignMethod: "total" };
  const { options = exact } = combination;
  const parts = adapters.map((name, i) => partOf(model, name, weights[i]));
  const { adapter, sites } = planOfParts(model, {
    adapterName,
    rule,
    parts,
    config: rule.config(parts, options),
    registry,
  });
  const { config } = adapter;
  const how = { method, rule, config, sites, parts, options, seed };
  const made = partsOf(combinedParts(pristineBase(model), how));
  return { ...adapter, parts: new Map([...made, ...adapter.parts]) };
}

interface ToCombine {
  readonly method: PeftMethod;
  readonly rule: Rule;
  /** The combined config. */
  readonly config: PeftConfig;
  readonly sites: readonly PlannedSite[];
  readonly parts: readonly CombinePart<TargetConfig>[];
  readonly options: CombineOptions;
  readonly seed: number;
}

function combinedParts(base: ModelGraph, of: ToCombine): readonly Part[] {
  const { method, rule, config, parts, options } = of;
  const streams = weakly(() => streamsBySite(of));
  return of.sites.map((planned): Part => {
    const { site } = planned;
    const make = weakly(async () =>
      await rule.combine({
        site,
        config,
        parts,
        options,
        random: (await streams()).get(site.path)!.fork(),
        weight: () => weightOutIn(base, site),
      })
    );
    const sources = parts.flatMap((part) => Object.values(part.leavesAt(site.path) ?? {}));
    const where = sources.some((source) => source.where === "device") ? "device" : "host";
    const contents = ({ shape }: LeafRule, leaf: string): Tensor => ({
      dtype: "f32",
      shape,
      where,
      data: async () => {
        const made = (await make())[leaf];
        return await checkedLeaf(made, { leaf, shape, config, verb: "combined it to" }).data();
      },
    });
    return combinedPart(planned, method, contents);
  });
}

/** Where torch's stream of random numbers is when it comes to each site. */
async function streamsBySite(of: ToCombine): Promise<ReadonlyMap<string, TorchRandom>> {
  const { config, rule: { draws }, parts, options, seed } = of;
  const sites = of.sites.map(({ site }) => site);
  const random = createTorchRandom(seed);
  const counts = sites.map((site) => draws?.count({ site, config, parts, options }) ?? 0);
  if (counts.every((count) => count === 0)) {
    return new Map(sites.map(({ path }) => [path, random]));
  }
  await draws!.before(random, { config, parts, options, sites });
  return new Map(sites.map(({ path }, i) => {
    const start = random.fork();
    random.skip(counts[i]);
    return [path, start];
  }));
}
