import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import { peftConfig } from "../../lib/adapters/status/model-info.ts";
import { withAdapterScale } from "../../lib/adapters/scope.ts";
import { deleteAdapter, setAdapter } from "../../lib/adapters/select.ts";
import { getAdapterStateDict } from "../../lib/adapters/checkpoint/state-dict.ts";
import { getModelStatus } from "../../lib/adapters/status/status.ts";
import { ConfigError, ValueError } from "../../lib/errors.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import type { PeftMethod } from "../../lib/methods/method.ts";
import { defaultMethods, type MethodRegistry } from "../../lib/methods/mod.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { golden, goldenBase, peftLora } from "./bases.ts";
import init from "../golden/init.json" with { type: "json" };

Deno.test("leaves start as torch starts them", async () => {
  for (const [name, { kind, seed, config }] of Object.entries(init)) {
    const model = getPeftModel(await goldenBase(kind), peftLora(config), { seed });
    const { tensors } = await openSafetensors(`${golden}init/${name}.safetensors`);
    const dict = getAdapterStateDict(model, "default", { saveEmbeddingLayers: false });
    for (const [live, want] of tensors) {
      const key = live.replace(".default", "").replace(/(magnitude_vector)\.weight$/, "$1");
      const got = dict.get(key);
      assert(got, `${key} in ${name}`);
      const [a, b] = [await toFloat32(got), await toFloat32(want)];
      const largest = Math.max(...b.map(Math.abs), 1e-30);
      const apart = Math.max(...a.map((x, i) => Math.abs(x - b[i]))) / largest;
      assert(apart < 2e-6, `${name} ${key}: ${apart}`);
    }
    assertEquals(dict.size, tensors.size, name);
  }
});

Deno.test("nothing is computed before it is read, and then once and in order", async () => {
  const lora = defaultMethods.get("LORA")!;
  const made: string[] = [];
  const counting: PeftMethod = {
    ...lora,
    leaves: {
      site: (at) =>
        Object.fromEntries(
          Object.entries(lora.leaves.site!(at)).map(([name, rule]) => [name, {
            ...rule,
            init: (from) => {
              made.push(`${at.site.path}.${name}`);
              return rule.init!(from);
            },
          }]),
        ),
    },
  };
  const registry: MethodRegistry = new Map([["LORA", counting]]);
  const base = await goldenBase("llama");
  const config = loraConfig({ targetModules: ["v_proj", "q_proj"] });
  const model = getPeftModel(base, config, { registry });
  assertEquals(made, []);
  await Promise.all([...trainableLeaves(model).values()].map((leaf) => leaf.data()));
  assertEquals(
    made,
    [
      "model.layers.0.self_attn.q_proj",
      "model.layers.0.self_attn.v_proj",
      "model.layers.1.self_attn.q_proj",
      "model.layers.1.self_attn.v_proj",
    ].flatMap((path) => [`${path}.lora_A`, `${path}.lora_B`]),
  );
});

Deno.test("the model that is given stays as it is", async () => {
  const base = await goldenBase("llama");
  const before = { ...base };
  const one = getPeftModel(base, loraConfig({ r: 2 }), { adapterName: "one" });
  const two = addAdapter(one, "two", loraConfig({ r: 5, targetModules: ["o_proj"] }));
  assertEquals({ ...base }, before);
  assertEquals([...one.adapters.keys()], ["one"]);
  assertEquals([...two.adapters.keys()], ["one", "two"]);
  assertEquals([two.active, two.trainable], [["one"], ["one"]]);
  assert(two.adapters.get("one") === one.adapters.get("one"));
});

Deno.test("names of adapters are checked", async () => {
  const base = await goldenBase("llama");
  const model = getPeftModel(base, loraConfig());
  const error = assertThrows(() => addAdapter(model, "default", loraConfig()), ValueError);
  assertEquals(error.code, "ADAPTER_EXISTS");
  for (const name of ["", "a/b", "a.b", "..", "a\\b", "__base__"]) {
    assertThrows(() => addAdapter(model, name, loraConfig()), ValueError);
  }
  assertThrows(
    () => getPeftModel(base, loraConfig(), { adapterName: "__base__" }),
    ValueError,
    "mixed batch",
  );
  assertThrows(() => getPeftModel(model as never, loraConfig()), ValueError, "addAdapter");
});

Deno.test("any other name will do", async () => {
  const base = await goldenBase("llama");
  const names = [
    "__proto__",
    "constructor",
    "toString",
    "日本語",
    "a b",
    "x".repeat(200),
    "lora_A",
  ];
  let model = getPeftModel(base, loraConfig());
  for (const name of names) model = addAdapter(model, name, loraConfig());
  for (const name of names) {
    const active = setAdapter(model, name);
    assert(Object.hasOwn(peftConfig(active), name), name);
    const { requiresGrad, peftTypes } = getModelStatus(active);
    assertEquals(requiresGrad[name], true, name);
    assertEquals(peftTypes[name], "LORA", name);
    const scale = Object.fromEntries([[name, 0.5]]);
    const { value } = await withAdapterScale(active, scale, ({ multipliers }) => multipliers);
    assertEquals(value.get(name), 0.5, name);
    assertEquals(deleteAdapter(active, name).adapters.has(name), false, name);
  }
});

Deno.test("an adapter for inference is not trainable", async () => {
  const base = await goldenBase("llama");
  const model = getPeftModel(base, loraConfig({ inferenceMode: true }));
  assertEquals(model.active, ["default"]);
  assertEquals(trainableLeaves(model).size, 0);
});

Deno.test("what is tied is one leaf", async () => {
  const base = await goldenBase("llama_tied");
  const names = (config: Record<string, unknown>) =>
    [
      ...trainableLeaves(getPeftModel(base, peftLora({ target_modules: ["o_proj"], ...config })))
        .keys(),
    ].filter((name) => !name.includes("o_proj"));
  assertEquals(names({ trainable_token_indices: [5, 3] }), ["a0.tokens.model.embed_tokens"]);
  assertEquals(names({ trainable_token_indices: { lm_head: [5], embed_tokens: [5] } }), [
    "a0.tokens.model.embed_tokens",
  ]);
  assertEquals(names({ trainable_token_indices: { lm_head: [5], embed_tokens: [6] } }), [
    "a0.tokens.lm_head",
    "a0.tokens.model.embed_tokens",
  ]);
  assertEquals(names({ modules_to_save: ["lm_head"] }), ["a0.param.lm_head.weight"]);
  assertEquals(names({ modules_to_save: ["lm_head"], ensure_weight_tying: true }), [
    "a0.param.model.embed_tokens.weight",
  ]);
  assertEquals(names({ modules_to_save: ["lm_head", "embed_tokens"] }), [
    "a0.param.model.embed_tokens.weight",
    "a0.param.lm_head.weight",
  ]);
  assertEquals(
    names({ target_modules: ["o_proj", "lm_head"], ensure_weight_tying: true }),
    ["a0.model.embed_tokens.lora_embedding_A", "a0.model.embed_tokens.lora_embedding_B"],
  );
});

Deno.test("token rows start as those of the table", async () => {
  const base = await goldenBase("llama");
  const model = getPeftModel(
    base,
    loraConfig({ targetModules: ["q_proj"], trainableTokenIndices: [7, 2] }),
  );
  const rows = trainableLeaves(model).get("a0.tokens.model.embed_tokens")!;
  const table = await toFloat32(base.parameters.get("model.embed_tokens.weight")!);
  assertEquals(rows.shape, [2, 32]);
  assertEquals(
    [...await toFloat32(rows)],
    [...table.subarray(7 * 32, 8 * 32), ...table.subarray(2 * 32, 3 * 32)],
  );
  for (const indices of [[61], [3, 3], []]) {
    const config = loraConfig({ targetModules: ["q_proj"], trainableTokenIndices: indices });
    assertThrows(() => getPeftModel(base, config), ConfigError);
  }
});

Deno.test("a seed decides, and a failed read can be tried again", async () => {
  const base = await goldenBase("llama");
  const read = async (seed: number) => {
    const leaves = trainableLeaves(getPeftModel(base, loraConfig(), { seed }));
    return [...await toFloat32(leaves.get("a0.model.layers.1.self_attn.v_proj.lora_A")!)];
  };
  assertEquals(await read(1), await read(1));
  assertNotEquals(await read(1), await read(2));

  let broken = true;
  const weight = base.parameters.get("model.layers.0.self_attn.q_proj.weight")!;
  const flaky = {
    ...weight,
    data: () => broken ? Promise.reject(new Error("unplugged")) : weight.data(),
  };
  const parameters = new Map(base.parameters).set("model.layers.0.self_attn.q_proj.weight", flaky);
  const config = loraConfig({ initLoraWeights: "olora" });
  const leaves = trainableLeaves(getPeftModel({ ...base, parameters }, config));
  const [leaf] = leaves.values();
  await assertRejects(() => leaf.data(), Error, "unplugged");
  broken = false;
  assertEquals((await leaf.data()).length, 8 * 32);
});
