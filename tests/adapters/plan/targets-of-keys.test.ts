import { assertEquals, assertThrows } from "@std/assert";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../../lib/adapters/checkpoint/state-dict.ts";
import { adapterOf } from "../../../lib/adapters/select.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import { ConfigError, GraftError, TargetError, ValueError } from "../../../lib/errors.ts";
import type { TargetConfig } from "../../../lib/methods/config.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { fromPeftJson } from "../../../lib/methods/peft-json.ts";
import { promptTuningConfig } from "../../../lib/methods/prompt-tuning.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { goldenBase } from "../bases.ts";
import { randomized } from "../randomized.ts";
import golden from "./targets-of-keys.golden.json" with { type: "json" };

const stateOf = (model: PeftModel) =>
  getAdapterStateDict(model, "default", { saveEmbeddingLayers: false });
const dictOf = (keys: readonly string[]) => new Map(keys.map((key) => [key, null]));

Deno.test("the keys of a state dict say what is adapted, as in PEFT", async () => {
  for (const { kind, config, keys, adapted } of golden.cases) {
    const base = await goldenBase(kind);
    const model = getPeftModel(base, fromPeftJson(config), { stateDict: dictOf(keys) });
    const made = [...stateOf(model).keys()];
    assertEquals(made.map((key) => key.replace("base_model.model.", "")).sort(), adapted);
    // The config says it from then on.
    const again = getPeftModel(base, adapterOf(model, "default").config);
    assertEquals(
      [...stateOf(again).keys()],
      made,
    );
  }
  for (const { kind, config, keys } of golden.refused) {
    const base = await goldenBase(kind);
    assertThrows(
      () => getPeftModel(base, fromPeftJson(config), { stateDict: dictOf(keys) }),
      GraftError,
    );
  }
});

Deno.test("a state dict of any adapter brings its modules and its values", async () => {
  const base = await goldenBase("llama");
  const expression = ".*0.*(k|up)_proj|lm_head";
  const given = await randomized(
    getPeftModel(base, loraConfig({ r: 3, targetModules: expression })),
  );
  const stateDict = getAdapterStateDict(given);
  const empty = addAdapter(given, "other", loraConfig({ r: 3 }), { stateDict });
  const { model } = await setAdapterStateDict(empty, stateDict, { adapterName: "other" });
  for (const [key, tensor] of getAdapterStateDict(model, "other")) {
    assertEquals(await toFloat32(tensor), await toFloat32(stateDict.get(key)!));
  }
});

Deno.test("a path that is the end of others is named alone", async () => {
  const base = await goldenBase("llama");
  const sites = new Map([...base.sites].map(([path, site]) => {
    const short = path.replace("model.layers.1.mlp.up_proj", "mlp.up_proj");
    return [short, { ...site, path: short }];
  }));
  const model = getPeftModel({ ...base, sites }, loraConfig(), {
    stateDict: dictOf(["mlp.up_proj.lora_A.weight"]),
  });
  assertEquals(adapterOf(model, "default").parts.size, 1);
  const { targetModules } = adapterOf(model, "default").config as TargetConfig;
  assertEquals(targetModules, "mlp\\.up_proj");
});

Deno.test("what a state dict cannot say is refused", async () => {
  const base = await goldenBase("llama");
  const adapt = (keys: readonly string[], config = loraConfig()) => () =>
    getPeftModel(base, config, { stateDict: dictOf(keys) });
  assertThrows(adapt(["model.layers.7.self_attn.q_proj.lora_A.weight"]), TargetError, "layers.7");
  assertThrows(adapt(["model.norm.weight"]), TargetError, "no keys of LORA");
  assertThrows(
    () => getPeftModel(base, promptTuningConfig({ numVirtualTokens: 2 }), { stateDict: new Map() }),
    ConfigError,
    "none by name",
  );
  assertThrows(
    () => getPeftModel(base, loraConfig(), { stateDict: 3 as never }),
    ValueError,
    "Map",
  );
});
