import { assert, assertEquals, assertThrows } from "@std/assert";
import { getAdapterStateDict } from "../../lib/adapters/checkpoint/state-dict.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { leavesAt } from "../../lib/adapters/parts.ts";
import { planAdapter } from "../../lib/adapters/plan/plan.ts";
import { ConfigError } from "../../lib/errors.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { matrixOf, matrixProduct } from "../../lib/methods/linalg.ts";
import { tinyLoraConfig } from "../../lib/methods/tinylora.ts";
import type { Tensor } from "../../lib/tensor/tensor.ts";
import { golden, goldenBase } from "../adapters/bases.ts";
import { fileKey } from "../golden-case.ts";
import { apart } from "../steps.ts";

Deno.test("the signs of A and B belong together: their product is PEFT's", async () => {
  const config = tinyLoraConfig({ r: 2, u: 7, targetModules: ["q_proj", "v_proj"] });
  const ours = getAdapterStateDict(getPeftModel(await goldenBase("llama"), config));
  const { tensors } = await openSafetensors(`${golden}methods/tinylora/init/zero.safetensors`);
  const theirs = new Map([...tensors].map(([name, tensor]) => [fileKey(name), tensor]));
  const product = async (of: ReadonlyMap<string, Tensor>, key: string) =>
    matrixProduct(
      await matrixOf(of.get(key.replace(/A$/, "B"))!),
      await matrixOf(of.get(key)!),
    ).data;
  const keys = [...ours.keys()].filter((key) => key.endsWith("tinylora_A"));
  assertEquals(keys.length, 4);
  for (const key of keys) {
    const far = apart(await product(ours, key), await product(theirs, key));
    assert(far < 1e-5, `${key}: ${far}`);
  }
});

Deno.test("layers share vectors by their order; a half of a group goes to the even number", async () => {
  const base = await goldenBase("llama");
  const groups = (weightTying: number, targetModules: readonly string[]) => {
    const model = getPeftModel(base, tinyLoraConfig({ u: 3, weightTying, targetModules }));
    const { sites } = planAdapter(base, tinyLoraConfig({ weightTying, targetModules }));
    const adapter = model.adapters.get("default")!;
    return [
      Object.keys(leavesAt(adapter, "shared")!).length,
      sites.map(({ site: { path } }) =>
        Number(adapter.parts.get(path)!.leaves.tinylora_v.tie!.leaf.split(".")[1])
      ),
    ];
  };
  const five = ["q_proj", "v_proj", "lm_head"];
  assertEquals(groups(0, five), [5, [0, 1, 2, 3, 4]]);
  assertEquals(groups(0.5, five), [2, [0, 0, 1, 1, 1]]);
  assertEquals(groups(0.3, five), [4, [0, 1, 2, 3, 3]]);
  assertEquals(groups(1, five), [1, [0, 0, 0, 0, 0]]);
  assertThrows(() => tinyLoraConfig({ weightTying: 1.5 }), ConfigError, "between 0");
});
