/**
 * BD-LoRA: one factor is block-diagonal, so that a layer that is split among devices needs nothing
 * of the others between its factors (Wang et al., 2025, arXiv:2510.23346).
 *
 * A [r, in] or B [out, r] consists of n blocks, which lie below one another in a matrix of an n-th
 * of the columns.
 *
 * @module
 */
import { ConfigError } from "../../errors.ts";
import type { Site } from "../../model/site.ts";
import { sizeOf } from "../../tensor/dtype.ts";
import type { LoraConfig } from "./lora-config.ts";
import { byGroup } from "./lora-trace.ts";
import type { LoraVariant } from "./variant.ts";

/** `useBdlora`. */
export const bdlora: LoraVariant = {
  field: "useBdlora",
  kinds: ["linear"],
  leaves({ config, site }, plain) {
    const leaf = blockLeaf(config, site);
    if (!leaf) return plain;
    const rule = plain[leaf], shape = blockShape(config, site, rule.shape);
    if (leaf === "lora_B" && config.loraBias) {
      throw refuse(`loraBias does not go with a B of blocks, as ${site.path} has.`);
    }
    return {
      ...plain,
      [leaf]: {
        ...rule,
        shape,
        // PEFT makes it anew after the layers of plain LoRA.
        async init(from) {
          await rule.init!(from);
          const size = sizeOf(shape), bound = Math.sqrt(3) * (Math.sqrt(2) / Math.sqrt(shape[1]));
          return leaf === "lora_B"
            ? new Float32Array(size)
            : from.random.uniform(size, { low: -bound, high: bound });
        },
      },
    };
  },
  values({ config, site, leaves }) {
    const leaf = blockLeaf(config, site);
    return leaf ? { [leaf]: byGroup(leaves[leaf], config.useBdlora!.nblocks) } : {};
  },
};

/** The factor that consists of blocks at a site. */
function blockLeaf({ useBdlora }: LoraConfig, { path }: Site): "lora_A" | "lora_B" | undefined {
  const { targetModulesBdA, targetModulesBdB, matchStrict } = useBdlora!;
  const [inA, inB] = [targetModulesBdA, targetModulesBdB]
    .map((names) => names?.some((name) => path.includes(name)) ?? false);
  if (inA && inB) throw refuse(`both targetModulesBdA and targetModulesBdB name ${path}.`);
  if (matchStrict && !inA && !inB) {
    throw refuse(
      `neither targetModulesBdA nor targetModulesBdB names ${path}. Name it, or set matchStrict to false for a plain LoRA there.`,
    );
  }
  return inA ? "lora_A" : inB ? "lora_B" : undefined;
}

function blockShape(
  { useBdlora }: LoraConfig,
  { path }: Site,
  [rows, columns]: readonly number[],
): readonly number[] {
  const { nblocks } = useBdlora!;
  if (rows % nblocks === 0 && columns % nblocks === 0) return [rows, columns / nblocks];
  throw refuse(
    `the factor [${rows}, ${columns}] of ${path} does not consist of ${nblocks} equal blocks (nblocks). Choose another r or nblocks.`,
  );
}

function refuse(message: string): ConfigError {
  return new ConfigError("CONFIG_BDLORA", `useBdlora: ${message}`);
}
