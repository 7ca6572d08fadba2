/**
 * Adapters as values to calculate with: multiples, sums, and lower ranks.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import { REGISTRY, type RegistryOptions } from "../../methods/mod.ts";
import { checkOptions, checkValue, FINITE, type OptionRules, wholeFrom } from "../../options.ts";
import { combineAdapters, partOf, ruleOf } from "./combined-adapter.ts";
import { planOfParts } from "./combined-plan.ts";
import { checkNewName } from "../inject.ts";
import { combinedPart } from "../lazy-leaves.ts";
import { type Part, partsOf } from "../parts.ts";
import type { PeftModel } from "../peft-model.ts";
import { adapterOf, withAdapter } from "../select.ts";
import { checkWeights } from "./weighted-adapter.ts";

/** How to scale an adapter. */
export interface ScaleAdapterOptions extends RegistryOptions {
  /** The factor on what it adds, of any sign. */
  readonly factor: number;
  /** Name of the scaled adapter; it takes the place of the adapter by default. */
  readonly as?: string;
}

const SCALE_OPTIONS: OptionRules<ScaleAdapterOptions> = {
  factor: FINITE,
  as: null,
  registry: REGISTRY,
};

/**
 * The model with an adapter that adds `factor` times what another adds: for good, and in what is
 * saved, what `withAdapterScale` does for a while. A LoRA shares its values with the one it is made
 * from; only `loraAlpha` differs. What an adapter replaces in the base (saved modules, biases,
 * token rows) is not scaled.
 *
 * @param model A model with adapters.
 * @param adapterName The adapter to scale.
 * @param options The factor, and a name for the result (`as`), which is then a new adapter, neither
 * active nor trainable.
 * @throws {ValueError} for an unknown name, one that is taken, and a factor that is no number.
 * @throws {UnsupportedError} where the method cannot be combined.
 *
 * @example
 * ```ts
 * import { getPeftModel, type LoraConfig, loraConfig, scaleAdapter, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4, loraAlpha: 8, initLoraWeights: false }));
 * const opposite = scaleAdapter(model, "default", { factor: -0.5, as: "opposite" });
 * console.log((opposite.adapters.get("opposite")!.config as LoraConfig).loraAlpha); // -4
 * ```
 */
export function scaleAdapter(
  model: PeftModel,
  adapterName: string,
  options: ScaleAdapterOptions,
): PeftModel {
  checkOptions(options, SCALE_OPTIONS, { code: "SCALE_OPTION", of: "scaleAdapter" });
  const adapter = adapterOf(model, adapterName);
  const { factor, as, registry } = options;
  checkValue(factor, FINITE, { code: "OPTION_MISSING", of: "factor" });
  const { source, name } = placeOf(model, adapterName, as);
  const { rule } = ruleOf(model, [adapterName], "scaled");
  const strength = factor * (source.multipliers.get(adapterName) ?? 1);
  const config = rule.rescale?.(adapter.config, strength);
  if (config) return withAdapter(model, { ...adapter, name, config });
  return withAdapter(
    model,
    combineAdapters(source, {
      adapters: [adapterName],
      weights: [factor],
      adapterName: name,
      registry,
    }),
  );
}

/**
 * The name of what an adapter becomes, and the model that it is made of. The multiplier of an adapter
 * stays with its name, so it is not to be made part of values that take its place.
 */
function placeOf(
  model: PeftModel,
  adapter: string,
  as: string | undefined,
): { readonly source: PeftModel; readonly name: string } {
  if (as !== undefined) {
    checkNewName(model, as);
    return { source: model, name: as };
  }
  const multipliers = new Map([...model.multipliers].filter(([key]) => key !== adapter));
  return { source: { ...model, multipliers }, name: adapter };
}

/** How to add adapters up. */
export interface AddAdaptersOptions extends RegistryOptions {
  /** Name of the sum. */
  readonly as: string;
  /** A factor for each adapter, of any sign; 1 by default. */
  readonly weights?: readonly number[];
}

/**
 * The model with an adapter that adds exactly what each of these adds, together: for LoRA, what
 * they give when they are active at once. It is neither active nor trainable. At each module that
 * any of them adapts, a LoRA has the sum of their ranks there (`rankPattern`), whatever their
 * alphas, patterns and scalings; {@link compressAdapter} lowers it. Factors of IA³ are added up as
 * what they differ from 1.
 *
 * @param model A model with adapters.
 * @param adapterNames The adapters, all of one method.
 * @param options The name of the sum (`as`), and `weights`.
 * @throws {ValueError} for unknown names, a name that is taken, and adapters that replace the same
 * module.
 * @throws {UnsupportedError} for adapters of several methods, for a method that cannot be combined,
 * and for DoRA, which does not add up.
 *
 * @example
 * ```ts
 * import { addAdapter, addAdapters, getPeftModel, tinyModel } from "@graft/peft";
 * import { type LoraConfig, loraConfig } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const one = getPeftModel(base, loraConfig({ r: 4, targetModules: ["q_proj", "v_proj"] }));
 * const two = addAdapter(one, "style", loraConfig({ r: 2, targetModules: ["q_proj", "v_proj"] }));
 * const model = addAdapters(two, ["default", "style"], { as: "both", weights: [1, -0.5] });
 * console.log((model.adapters.get("both")!.config as LoraConfig).r); // 6
 * ```
 */
export function addAdapters(
  model: PeftModel,
  adapterNames: readonly string[],
  options: AddAdaptersOptions,
): PeftModel {
  checkOptions(options, {
    as: null,
    weights: null,
    registry: REGISTRY,
  }, { code: "ADD_OPTION", of: "addAdapters" });
  const { as, weights = Array.isArray(adapterNames) ? adapterNames.map(() => 1) : [] } = options;
  checkNewName(model, as);
  checkWeights(adapterNames, weights);
  ruleOf(model, adapterNames, "added up");
  return withAdapter(
    model,
    combineAdapters(model, {
      adapters: adapterNames,
      weights,
      adapterName: as,
      registry: options.registry,
    }),
  );
}

/** How to compress an adapter. */
export interface CompressAdapterOptions extends RegistryOptions {
  /** The largest rank that a module is to have. */
  readonly rank: number;
  /** Name of the compressed adapter; it takes the place of the adapter by default. */
  readonly as?: string;
}

const COMPRESS_OPTIONS: OptionRules<CompressAdapterOptions> = {
  rank: wholeFrom(1),
  as: null,
  registry: REGISTRY,
};

/** What is lost, as a share of the Frobenius norm of what an adapter adds to the weights. */
export interface CompressionResidual {
  /** Of all modules together. */
  readonly total: number;
  /** Of each, by module path. */
  readonly sites: ReadonlyMap<string, number>;
}

/** A model with a compressed adapter. */
export interface CompressedAdapter {
  /** The model. */
  readonly model: PeftModel;
  /** What is lost. */
  readonly residual: CompressionResidual;
}

/**
 * The model with an adapter at a lower rank: the best approximation of what it adds to each weight,
 * by its largest singular values (Eckart and Young, 1936). They come from QR decompositions of the
 * factors, so that no matrix of the weight's size is made. Magnitudes of DoRA stay as they are; the
 * residual is that of the low-rank part.
 *
 * @param model A model with adapters.
 * @param adapterName The adapter to compress.
 * @param options The `rank`, and a name for the result (`as`), which is then a new adapter, neither
 * active nor trainable.
 * @throws {ValueError} for an unknown name, one that is taken, and a rank that is none.
 * @throws {UnsupportedError} for a method without ranks.
 *
 * @example
 * ```ts
 * import { compressAdapter, getPeftModel, tinyModel } from "@graft/peft";
 * import { type LoraConfig, loraConfig } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const big = getPeftModel(base, loraConfig({ r: 8, initLoraWeights: false }));
 * const { model, residual } = await compressAdapter(big, "default", { rank: 6, as: "small" });
 * console.log((model.adapters.get("small")!.config as LoraConfig).r, residual.total < 0.5); // 6 true
 * ```
 */
export async function compressAdapter(
  model: PeftModel,
  adapterName: string,
  options: CompressAdapterOptions,
): Promise<CompressedAdapter> {
  checkOptions(options, COMPRESS_OPTIONS, { code: "COMPRESS_OPTION", of: "compressAdapter" });
  const { rank, as, registry } = options;
  checkValue(rank, COMPRESS_OPTIONS.rank!, { code: "OPTION_MISSING", of: "rank" });
  const { source, name } = placeOf(model, adapterName, as);
  const { rule, method } = ruleOf(model, [adapterName], "compressed");
  const { compress } = rule;
  if (!compress) {
    throw new UnsupportedError(
      "COMPRESS_METHOD",
      `${method.config.peftType} has no ranks, so ${
        JSON.stringify(adapterName)
      } cannot be compressed.`,
      { peftType: method.config.peftType },
    );
  }
  const part = partOf(source, adapterName, 1);
  const { adapter, sites: planned } = planOfParts(source, {
    adapterName: name,
    rule,
    parts: [part],
    config: compress.config(part, rank),
    registry,
  });
  const parts: Part[] = [];
  const residuals = new Map<string, number>();
  let total = 0, lost = 0;
  for (const at of planned) {
    const { site } = at;
    const made = await compress.site({ site, part, rank: compress.rank(adapter.config, site) });
    parts.push(combinedPart(at, method, (_, leaf) => made.leaves[leaf]));
    residuals.set(site.path, share(made));
    total += made.total;
    lost += made.lost;
  }
  return {
    model: withAdapter(model, {
      ...adapter,
      parts: new Map([...partsOf(parts), ...adapter.parts]),
    }),
    residual: { total: share({ total, lost }), sites: residuals },
  };
}

/** The share of a norm that is lost, from squares. */
function share(of: { readonly total: number; readonly lost: number }): number {
  return of.total > 0 ? Math.sqrt(of.lost / of.total) : 0;
}
