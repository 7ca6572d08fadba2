import { assert, assertEquals, assertThrows } from "@std/assert";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import {
  activeAdapter,
  activeAdapters,
  activePeftConfig,
  baseModelDtype,
  getBaseModel,
  modulesToSave,
  peftConfig,
} from "../../../lib/adapters/status/model-info.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import {
  deleteAdapter,
  disableAdapters,
  setAdapter,
  setRequiresGrad,
} from "../../../lib/adapters/select.ts";
import {
  getLayerStatus,
  getModelStatus,
  type LayerStatus,
  type ModelStatus,
} from "../../../lib/adapters/status/status.ts";
import { GraftError, UnsupportedError, ValueError } from "../../../lib/errors.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { tensor } from "../../../lib/tensor/tensor.ts";
import { goldenBase } from "../bases.ts";
import { buildCase, type StatusCase, statusCases } from "./status-cases.ts";

Deno.test("layer and model status are PEFT's", async () => {
  for (const item of statusCases) {
    const model = await buildCase(item);
    if ("error" in item.model) {
      // PEFT's TypeError: prompts and prefixes have no layers.
      for (const call of [getLayerStatus, getModelStatus]) {
        assertEquals(assertThrows(() => call(model), UnsupportedError).code, "STATUS_METHOD");
      }
      continue;
    }
    const layers = camelCase(item.layers) as readonly LayerStatus[];
    const expected = camelCase(item.model) as ModelStatus;
    // PEFT keeps layers whose adapters were deleted, without any adapter in them.
    const empty = layers.filter(({ availableAdapters }) => availableAdapters.length === 0);
    assertEquals(empty.length > 0, item.name === "two_deleted");
    assertEquals(
      getLayerStatus(model),
      layers.filter((layer) => !empty.includes(layer)),
      item.name,
    );
    assertEquals(
      getModelStatus(model),
      empty.length === 0 ? expected : {
        ...expected,
        numAdapterLayers: layers.length - empty.length,
        activeAdapters: item.active_adapters,
      },
      item.name,
    );
  }
});

Deno.test("a model tells its adapters, configs and base as PEFT does", async () => {
  for (const item of statusCases) {
    const model = await buildCase(item);
    assertEquals(activeAdapters(model), item.active_adapters, item.name);
    const [first, ...others] = item.active_adapters;
    assertEquals(activeAdapter(model), others.length ? item.active_adapters : first);
    const types = Object.entries(peftConfig(model)).map(([name, { peftType }]) => [name, peftType]);
    assertEquals(Object.fromEntries(types), item.peft_config);
    assertEquals(activePeftConfig(model), model.adapters.get(first)!.config);
    assertEquals(modulesToSave(model)?.toSorted() ?? null, item.modules_to_save, item.name);
    const dtype = baseModelDtype(model);
    // The golden models were loaded in f32 whatever their files hold.
    assertEquals(dtype, item.kind === "llama_bf16" ? "bf16" : "f32");
    assertEquals(item.base_model_torch_dtype, "torch.float32");
  }
});

Deno.test("the base is told through every state of the adapters", async () => {
  const base = await goldenBase("llama");
  const model = getPeftModel(base, loraConfig());
  const other = await goldenBase("llama");
  const merged: PeftModel = { ...model, base: other, merged: { names: ["default"], base } };
  for (const same of [base, model, disableAdapters(model), merged]) {
    assert(getBaseModel(same) === base);
  }
  assertThrows(() => getBaseModel({} as never), ValueError, "A model is needed");
});

Deno.test("getters and status refuse a base, and a model without adapters", async () => {
  const base = await goldenBase("llama");
  const calls = [
    activeAdapters,
    activeAdapter,
    activePeftConfig,
    peftConfig,
    modulesToSave,
    getLayerStatus,
    getModelStatus,
  ];
  for (const call of calls) {
    assertEquals(assertThrows(() => call(base as never), GraftError).code, "NOT_PEFT", call.name);
  }
  const none = deleteAdapter(getPeftModel(base, loraConfig()), "default");
  assertEquals([activeAdapters(none), activeAdapter(none), peftConfig(none)], [[], [], {}]);
  assertEquals(modulesToSave(none), null);
  assertEquals(
    assertThrows(() => activePeftConfig(none), ValueError).code,
    "NO_ACTIVE_ADAPTER",
  );
  assertEquals(assertThrows(() => getLayerStatus(none), ValueError).code, "NO_ADAPTER_LAYERS");
});

Deno.test("a quantized base is told in the status", async () => {
  const base = await goldenBase("llama");
  const name = "model.layers.0.self_attn.q_proj.weight";
  const blocks = tensor(new Uint8Array(32 * 18), { shape: [32, 32], dtype: "q4_0" });
  const mixed = { ...base, parameters: new Map([...base.parameters, [name, blocks]]) };
  const all = getPeftModel(mixed, loraConfig({ targetModules: ["q_proj"] }));
  assertEquals(
    getLayerStatus(all).map(({ quantizationBackend }) => quantizationBackend),
    ["gguf q4_0", null],
  );
  assertEquals(getModelStatus(all).quantizationBackend, "irregular");
  const first = getPeftModel(
    mixed,
    loraConfig({ targetModules: ["q_proj"], layersToTransform: 0, modulesToSave: ["norm"] }),
  );
  assertEquals(getModelStatus(first).quantizationBackend, "irregular");
  assertEquals(baseModelDtype(mixed), "f32");
  const only = { ...base, parameters: new Map([[name, blocks]]) };
  assertEquals(baseModelDtype(only), "q4_0");
});

Deno.test("names of PEFT's classes where config.json or PEFT have none", async () => {
  const base = await goldenBase("llama");
  const { architectures: _, ...config } = base.config;
  const model = getPeftModel({ ...base, config }, loraConfig({ targetModules: ["q_proj"] }));
  assertEquals(getModelStatus(model).baseModelType, "other");
  const adapter = model.adapters.get("default")!;
  const foreign: PeftModel = {
    ...model,
    adapters: new Map([
      ["default", adapter],
      ["own", {
        ...adapter,
        name: "own",
        method: {
          ...adapter.method,
          name: "sign_flip",
          config: { ...adapter.method.config, peftType: "SIGN_FLIP" },
        },
        config: { ...adapter.config, peftType: "SIGN_FLIP" },
      }],
    ]),
  };
  const status = getModelStatus(foreign);
  assertEquals(status.adapterModelType, "MixedModel");
  assertEquals(status.peftTypes, { default: "LORA", own: "SIGN_FLIP" });
  // As PEFT nests layers of several methods.
  assertEquals(
    getLayerStatus(foreign).slice(0, 2).map(({ name, moduleType }) => [name, moduleType]),
    [
      ["model.model.layers.0.self_attn.q_proj", "sign_flip.Linear"],
      ["model.model.layers.0.self_attn.q_proj.base_layer", "lora.Linear"],
    ],
  );
  assertEquals(getModelStatus(deleteAdapter(foreign, "default")).adapterModelType, "SignFlipModel");
});

Deno.test("status follows the model and leaves it alone", async () => {
  const one = getPeftModel(await goldenBase("llama"), loraConfig({ targetModules: ["k_proj"] }));
  const two = addAdapter(one, "style", loraConfig({ modulesToSave: ["lm_head"] }));
  assertEquals(getModelStatus(two).activeAdapters, "irregular");
  assertEquals(getModelStatus(setAdapter(two, "style")).activeAdapters, ["style"]);
  const frozen = setRequiresGrad(two, "default", false);
  assertEquals(getModelStatus(frozen).requiresGrad, { default: false, style: false });
  assertEquals(getModelStatus(one).requiresGrad, { default: true });
});

/** Fields as they are named here; names of adapters stay. */
function camelCase(value: StatusCase["layers"] | StatusCase["model"]): unknown {
  const fields = (record: Readonly<Record<string, unknown>>) =>
    Object.fromEntries(
      Object.entries(record).map(([key, inner]) => [
        key.replace(/_[a-z]/g, (match) => match[1].toUpperCase()),
        inner,
      ]),
    );
  return Array.isArray(value) ? value.map(fields) : fields(value as Record<string, unknown>);
}
