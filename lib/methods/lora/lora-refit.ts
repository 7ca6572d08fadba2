/**
 * LoRAs of one rank and scale as LoRAs of another, larger rank and another scale: A and B are padded
 * with zeros, and the quotient of the scales goes into B.
 *
 * What PiSSA, OLoRA and CorDA took out of the base comes along as further columns: B·A − B₀·A₀ = [B,
 * −B₀]·[A; A₀].
 *
 * @module
 */
import { ShapeError, UnsupportedError, ValueError } from "../../errors.ts";
import type { Site } from "../../model/site.ts";
import { computedTensor } from "../../tensor/computed.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { checkFactors, type LoraConfig, loraShape, takesFromBase } from "./lora-config.ts";
import { joined, magnitudes, type Signed } from "./lora-factors.ts";
import { decomposes, loraLeafShapes } from "./lora-init.ts";
import type { Leaves } from "../method.ts";
import type { RefitContext, RefitRule } from "../refit.ts";

/** The rule of `LORA`. */
export const loraRefit: RefitRule<LoraConfig> = { config: replaced, resized, refit };

type Context = RefitContext<LoraConfig>;

/** Fields that decide which leaves there are, or what the program does with them. */
const STRUCTURE = ["useDora", "loraBias"] as const;

function replaced(resident: LoraConfig, from: LoraConfig): LoraConfig {
  for (const config of [resident, from]) checkFactors(config);
  const other = STRUCTURE.find((field) =>
    resident[field] !== from[field] && (field !== "loraBias" || from.loraBias)
  );
  if (other) {
    throw new UnsupportedError(
      "HOTSWAP_CONFIG",
      `Configs are incompatible: for ${other}, ${resident[other]} != ${
        from[other]
      }. An adapter with another ${other} is another program; load it beside this one with loadAdapter.`,
      { field: other, resident: resident[other], found: from[other] },
    );
  }
  const { initLoraWeights: init } = resident;
  if (takesFromBase(resident)) {
    throw new UnsupportedError(
      "HOTSWAP_CONFIG",
      `The adapter began with initLoraWeights ${
        JSON.stringify(init)
      }, which takes a part of the weights over, and another adapter does not take that part. ` +
        "Make it a plain LoRA with prepareModelForCompiledHotswap, with twice its rank as targetRank.",
      { field: "initLoraWeights", resident: init },
    );
  }
  return {
    ...resident,
    // Only training sees these.
    loraDropout: from.loraDropout,
    baseModelNameOrPath: from.baseModelNameOrPath ?? resident.baseModelNameOrPath,
    revision: from.revision,
  };
}

function resized(config: LoraConfig, rank: number): LoraConfig {
  checkFactors(config);
  const { useRslora, initLoraWeights: init } = config;
  const divisor = (r: number) => useRslora ? Math.sqrt(r) : r;
  return {
    ...config,
    r: rank,
    // Without any scale there is nothing to keep.
    loraAlpha: (config.loraAlpha / divisor(config.r) || 1) * divisor(rank),
    rankPattern: {},
    alphaPattern: {},
    // How the leaves began says something about their shapes, or about the base.
    initLoraWeights: typeof init === "boolean" || init === "gaussian" ? init : true,
  };
}

function refit(context: Context): Leaves {
  const { config, site, from } = context;
  const shapes = loraLeafShapes(config, site);
  const leaves: Record<string, Tensor> = {};
  const factor = from ? factorOf(context, site) : 0;
  if (context.tiedTo && from) checkTie(context, context.tiedTo, factor);
  for (const [leaf, shape] of Object.entries(shapes)) {
    const old = from?.leaves[leaf];
    if (/_[AB]$/.test(leaf)) {
      const parts = from ? partsOf(context, leaf, old!) : [];
      checkRank(context, { leaf, shape, parts });
      leaves[leaf] = joined(shape, {
        parts,
        axis: leaf.endsWith("A") ? 0 : 1,
        factor: leaf.endsWith("B") ? factor : 1,
      });
    } else if (leaf === "lora_bias") {
      leaves[leaf] = joined(shape, {
        parts: old ? [{ tensor: old, sign: 1 }] : [],
        axis: 0,
        factor,
      });
    } else {
      // A magnitude of the weight's own length is a factor of 1.
      leaves[leaf] = old ??
        computedTensor(
          shape,
          async () => Float32Array.from(magnitudes(await context.weight(), { site })),
        );
    }
  }
  return leaves;
}

/** How many times as large the given leaves' scale is. */
function factorOf({ config, from }: Context, site: Site): number {
  const [old, now] = [loraShape(from!.config, site).scale, loraShape(config, site).scale];
  if (now === 0 && old !== 0) {
    throw new ValueError(
      "HOTSWAP_SCALE",
      `The adapter's own scale is 0 at ${site.path} (loraAlpha), so that nothing put into it has an effect.`,
      { path: site.path },
    );
  }
  const factor = old === 0 ? 0 : old / now;
  return Math.abs(factor - 1) < 1e-12 ? 1 : factor;
}

/** What is tied has one pair of leaves, into which only one factor can go. */
function checkTie(context: Context, source: Site, factor: number): void {
  if (Math.abs(factorOf(context, source) - factor) <= 1e-12 * Math.abs(factor)) return;
  throw new UnsupportedError(
    "HOTSWAP_TIED",
    `${context.site.path} and ${source.path} are tied by ensureWeightTying and share their leaves, but alphaPattern or rankPattern scales them differently.`,
    { paths: [context.site.path, source.path] },
  );
}

function partsOf({ site, from }: Context, leaf: string, tensor: Tensor): readonly Signed[] {
  const own: Signed = { tensor, sign: 1 };
  if (!decomposes(from!.config, site)) return [own];
  const initial = from!.leaves[`${leaf}_init`];
  return [own, { tensor: initial, sign: leaf.endsWith("B") ? -1 : 1 }];
}

function checkRank(
  { site, from }: Context,
  of: {
    readonly leaf: string;
    readonly shape: readonly number[];
    readonly parts: readonly Signed[];
  },
): void {
  const axis = of.leaf.endsWith("A") ? 0 : 1;
  const other = of.parts.find(({ tensor }) => tensor.shape[1 - axis] !== of.shape[1 - axis]);
  if (other) {
    throw new ShapeError(
      "HOTSWAP_SHAPE",
      `${of.leaf} of ${site.path} has shape [${other.tensor.shape}] in the other adapter, and [${of.shape}] is needed. They belong to different bases.`,
      { path: site.path, expected: of.shape, found: other.tensor.shape },
    );
  }
  const found = of.parts.reduce((sum, { tensor }) => sum + tensor.shape[axis], 0);
  if (found > 0 && found !== of.shape[axis] && site.conv && site.conv.groups > 1) {
    throw new UnsupportedError(
      "HOTSWAP_GROUPS",
      `The rank at ${site.path} cannot change: it is a convolution whose ${site.conv.groups} groups share it out.`,
      { path: site.path },
    );
  }
  const room = of.shape[axis];
  if (found <= room) return;
  throw new ValueError(
    "HOTSWAP_RANK",
    `The rank ${found} at ${site.path} does not fit into the rank ${room}${
      of.parts.length > 1
        ? ` (its own and, as it began with ${
          JSON.stringify(from!.config.initLoraWeights)
        }, as much for what the base is to lack)`
        : ""
    }. Pad the adapters that are swapped to the largest rank of all with prepareModelForCompiledHotswap({ targetRank: ${found} }).`,
    { path: site.path, rank: found, room },
  );
}
