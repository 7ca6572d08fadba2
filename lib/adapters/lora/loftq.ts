/**
 * `replaceLoraWeightsLoftq`: adapters on a quantized base that begin as what quantization lost.
 *
 * @module
 */
import { ShapeError, ValueError } from "../../errors.ts";
import { flatMatrix } from "../../methods/linalg.ts";
import { factorLeaves } from "../../methods/lora/lora-factors.ts";
import { evenFactors } from "../../methods/lora/loftq.ts";
import { type ModelGraph, parameterOf } from "../../model/model-graph.ts";
import { type Site, weightName } from "../../model/site.ts";
import { checkOptions, FUNCTION } from "../../options.ts";
import { isBlockType } from "../../tensor/dtype.ts";
import { weightOutIn } from "../lazy-leaves.ts";
import { type AdapterLeaves, partsOf } from "../parts.ts";
import { type PeftModel, pristineBase } from "../peft-model.ts";
import { adapterOf } from "../select.ts";

/** What {@link replaceLoraWeightsLoftq} needs beside the model. */
export interface ReplaceLoftqOptions {
  /** The model whose weights the base's are the quantized ones of. */
  readonly from: ModelGraph;
  /** The adapter; `"default"` by default. */
  readonly adapterName?: string;
  /**
   * Is asked after each module, with the model in which it is replaced, whether it is to stay so; by
   * the difference of its outputs to those of the unquantized model, for example. One that is not
   * keeps what it had.
   */
  readonly callback?: (model: PeftModel, path: string) => boolean | Promise<boolean>;
}

/**
 * The model with a LoRA that makes up for a part of what quantization lost: B·A is the best
 * approximation of its rank of what the weight lacks (LoftQ with one iteration; Li et al., 2023,
 * arXiv:2310.08659). PEFT does so for NF4 of bitsandbytes; here it is any quantized linear layer, such
 * as those of a GGUF file.
 *
 * As in PEFT, B·A does not know of the adapter's scale, which is to be 1: `loraAlpha` equal to `r`.
 *
 * @param model A model with a LoRA, on a quantized base.
 * @param options The unquantized model, and see {@link ReplaceLoftqOptions}.
 * @throws {ValueError} for an adapter of another method, and where no adapted layer is quantized.
 * @throws {ShapeError} where the other model is not of the same shape.
 *
 * @example
 * ```ts ignore
 * import { getPeftModel, loadModel, loraConfig, replaceLoraWeightsLoftq } from "@graft/peft";
 * const base = await loadModel("model-q4_0.gguf");
 * const from = await loadModel("model/");
 * const model = await replaceLoraWeightsLoftq(
 *   getPeftModel(base, loraConfig({ r: 16, loraAlpha: 16 })),
 *   { from },
 * );
 * ```
 */
export async function replaceLoraWeightsLoftq(
  model: PeftModel,
  options: ReplaceLoftqOptions,
): Promise<PeftModel> {
  const base = pristineBase(model);
  checkOptions(options, {
    from: {
      must: "a model, such as loadModel gives",
      holds: (x) => (x as ModelGraph | null)?.type === "model",
    },
    adapterName: null,
    callback: FUNCTION,
  }, { code: "LOFTQ_OPTION", of: "replaceLoraWeightsLoftq" });
  const { from, adapterName = "default", callback } = options;
  const adapter = adapterOf(model, adapterName);
  const quantized = adapter.config.peftType !== "LORA"
    ? []
    : [...adapter.parts.values()].flatMap((part) => {
      const site = part.place.kind === "site" ? base.sites.get(part.place.path) : undefined;
      return site && isQuantized(base, site) ? [{ part, site }] : [];
    });
  if (quantized.length === 0) {
    throw new ValueError(
      "LOFTQ_QUANTIZED",
      `No LoRA of a quantized linear layer was found: the adapter ${
        JSON.stringify(adapterName)
      } is of the method ${adapter.config.peftType}, on a base of which none of its layers is quantized.`,
      { adapter: adapterName },
    );
  }
  let current = model;
  for (const { part, site } of quantized) {
    const now = adapterOf(current, adapterName);
    const leaves = await replaced(part.leaves, { base, from, site });
    const parts = partsOf(
      [...now.parts.values()].map((p) => p.place === part.place ? { ...p, leaves } : p),
    );
    const next = {
      ...current,
      adapters: new Map(current.adapters).set(adapterName, { ...now, parts }),
    };
    if (await callback?.(next, site.path) ?? true) current = next;
  }
  return current;
}

function isQuantized(base: ModelGraph, site: Site): boolean {
  return site.kind === "linear" && isBlockType(parameterOf(base, weightName(site)).dtype);
}

async function replaced(
  leaves: AdapterLeaves,
  at: { readonly base: ModelGraph; readonly from: ModelGraph; readonly site: Site },
): Promise<AdapterLeaves> {
  const { base, from, site } = at, { inFeatures: columns, outFeatures: rows } = site;
  const own = await weightOutIn(base, site);
  const whole = from.sites.has(site.path) ? await weightOutIn(from, site) : undefined;
  if (whole?.length !== own.length) {
    throw new ShapeError(
      "LOFTQ_SHAPE",
      `The unquantized model ${
        whole ? `has ${whole.length} elements` : "has no module"
      } where the base has ${site.path} with ${own.length}: it is another model.`,
      { path: site.path },
    );
  }
  const lost = flatMatrix(Float64Array.from(whole, (x, i) => x - own[i]), { rows, columns });
  const [r] = leaves.lora_A.shape;
  const made = factorLeaves(site, evenFactors(lost, Math.min(r, rows, columns)), r);
  const { lora_A, lora_B } = leaves;
  return {
    ...leaves,
    lora_A: { ...lora_A, tensor: made.lora_A },
    lora_B: { ...lora_B, tensor: made.lora_B },
  };
}
