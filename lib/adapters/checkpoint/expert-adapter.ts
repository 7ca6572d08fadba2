/**
 * LoRAs of single experts, as older files have them, as LoRAs of the parameters that hold all.
 *
 * @module
 */
import { expertGroups, stackedRows } from "../../io/stacked-experts.ts";
import type { PeftConfig } from "../../methods/config.ts";
import { expertTargets } from "../../methods/lora/expert-targets.ts";
import type { LoraConfig } from "../../methods/lora/lora-config.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { computedTensor } from "../../tensor/computed.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { keyStart } from "../lazy-leaves.ts";
import type { Adapter } from "../peft-model.ts";
import type { RenamedKey } from "./key-mapping.ts";

type Tensors = ReadonlyMap<string, Tensor>;

/** The config of an adapter whose file has LoRAs of single experts, with the parameters as targets. */
export function expertConfig(config: PeftConfig, tensors: Tensors, base: ModelGraph): PeftConfig {
  const has = expertGroups(tensors.keys(), base.architecture, "lora_A.weight").length > 0;
  const beside = base.architecture.stacked?.targets === false;
  return has && beside && config.peftType === "LORA"
    ? expertTargets(config as LoraConfig, base, { beside })
    : config;
}

/**
 * The tensors with those of single experts put together: A one below the other, and of several parts
 * of an expert B block by block, so that each sees its own rows of A only.
 */
export function expertAdapter(
  tensors: Tensors,
  { adapter, known, base: { architecture } }: {
    readonly adapter: Adapter;
    /** Its keys. */
    readonly known: { has(key: string): boolean };
    readonly base: ModelGraph;
  },
): { readonly tensors: Tensors; readonly renamed: readonly RenamedKey[] } {
  const all = new Map(tensors), renamed: RenamedKey[] = [], start = keyStart(adapter.method);
  const today = (name: string) =>
    (architecture.oldKeys ?? []).reduce((key, [old, name]) => key.replace(old, name), name);
  const move = (keys: readonly string[], to: string, tensor: Tensor) => {
    for (const from of keys) {
      all.delete(from);
      renamed.push({ from, to });
    }
    all.set(to, tensor);
  };
  for (const leaf of ["lora_A", "lora_B"]) {
    for (const { name, keys } of expertGroups(tensors.keys(), architecture, `${leaf}.weight`)) {
      const to = adapter.parts.get(today(name.replace(start, "")))?.leaves[leaf]?.key;
      const parts = keys.map((keys) => keys.map((key) => tensors.get(key)!));
      const rows = stackedRows(parts.flat());
      if (to && rows) move(keys.flat(), to, leaf === "lora_A" ? rows : blocks(parts));
    }
  }
  for (const [from, tensor] of [...all]) {
    const to = today(from);
    if (known.has(to) && !all.has(to)) move([from], to, tensor);
  }
  return { tensors: all, renamed };
}

/** B [out, r] of each part of each of E experts as [parts·out, parts·r·E], experts side by side. */
function blocks(parts: readonly (readonly Tensor[])[]): Tensor {
  const experts = parts.length, [{ length: count }] = parts, [out, r] = parts[0][0].shape;
  const shape = [count * out, count * r * experts];
  return computedTensor(shape, async () => {
    const all = new Float32Array(shape[0] * shape[1]);
    for (const [e, own] of parts.entries()) {
      for (const [p, tensor] of own.entries()) {
        const values = await toFloat32(tensor);
        values.forEach((x, i) => {
          const row = p * out + Math.floor(i / r), rank = p * r + i % r;
          all[row * shape[1] + rank * experts + e] = x;
        });
      }
    }
    return all;
  });
}
