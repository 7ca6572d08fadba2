import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { ConfigError, UnsupportedError } from "../../../lib/errors.ts";
import { loraConfig, loraSchema, loraShape } from "../../../lib/methods/lora/lora-config.ts";
import { fromPeftJson, toPeftJson } from "../../../lib/methods/peft-json.ts";
import type { Site } from "../../../lib/model/site.ts";

const GOLDEN = new URL("../../golden/", import.meta.url);

async function* configFiles(folder: URL): AsyncGenerator<URL> {
  for await (const entry of Deno.readDir(folder)) {
    if (entry.isDirectory) yield* configFiles(new URL(`${entry.name}/`, folder));
    else if (entry.name === "adapter_config.json") yield new URL(entry.name, folder);
  }
}

Deno.test("every adapter_config.json of PEFT is read and written again byte for byte", async () => {
  let count = 0;
  for await (const file of configFiles(new URL("lora/", GOLDEN))) {
    const text = await Deno.readTextFile(file);
    const config = fromPeftJson(JSON.parse(text));
    assertEquals(toPeftJson(config), text, file.pathname);
    assertEquals(fromPeftJson(JSON.parse(toPeftJson(config))), config);
    count++;
  }
  assert(count > 80, `only ${count} files`);
});

Deno.test("a default config is PEFT's, with all its fields", () => {
  const json = JSON.parse(toPeftJson(loraConfig()));
  assertEquals(Object.keys(json).length, 41);
  assertEquals(json.r, 8);
  assertEquals(json.lora_alpha, 8);
  assertEquals(json.inference_mode, true);
  assertEquals(loraConfig().inferenceMode, false);
  assertEquals(json.loftq_config, {});
  assertEquals(json.megatron_core, "megatron.core");
  assertEquals(json.qalora_group_size, 16);
  assertEquals(json.peft_version, "0.21.0");
  assertStringIncludes(toPeftJson(loraConfig()), '"lora_dropout": 0.0,');
});

Deno.test("numbers and text are written as Python writes them", () => {
  const json = toPeftJson(loraConfig({
    loraDropout: 0.00001,
    loraAlpha: 16.5,
    alphaPattern: { b: 1e16, a: 3, c: 123456789012.5, e: 0.0001, f: 1.5e-7, 'ä\u007f😀"': 0.1 },
    targetModules: [],
  }));
  assertStringIncludes(json, '"lora_dropout": 1e-05,');
  assertStringIncludes(json, '"lora_alpha": 16.5,');
  assertStringIncludes(
    json,
    '"alpha_pattern": {\n    "a": 3,\n    "b": 1e+16,\n    "c": 123456789012.5,\n    "e": 0.0001,\n    "f": 1.5e-07,\n' +
      '    "\\u00e4\\u007f\\ud83d\\ude00\\"": 0.1\n  },',
  );
  assertStringIncludes(json, '"target_modules": [],');
  assert(json.endsWith("}"));
});

Deno.test("only the names of fields are converted, not what they hold", () => {
  const config = loraConfig({
    rankPattern: { some_module: 3, otherModule: 5 },
    autoMapping: { base_model_class: "LlamaForCausalLM", parent_library: "x.y" },
    trainableTokenIndices: { embed_tokens: [1, 2] },
  });
  const json = JSON.parse(toPeftJson(config));
  assertEquals(json.rank_pattern, { some_module: 3, otherModule: 5 });
  assertEquals(json.auto_mapping, {
    base_model_class: "LlamaForCausalLM",
    parent_library: "x.y",
  });
  assertEquals(fromPeftJson(json).autoMapping, config.autoMapping);
});

Deno.test("a file of an older release takes defaults for what it lacks", () => {
  const config = fromPeftJson({
    peft_type: "LORA",
    r: 16,
    target_modules: ["q_proj"],
    peft_version: undefined,
    rank_pattern: null,
    runtime_config: { ephemeral_gpu_offload: false },
    enable_lora: null,
    merge_weights: false,
  });
  assertEquals(config, loraConfig({ r: 16, targetModules: ["q_proj"] }));
});

Deno.test("unknown and ill-typed fields are named, with what was found", () => {
  const cases: [Record<string, unknown>, string[]][] = [
    [{ enable_lora: [true, false, true] }, ['"enable_lora"']],
    [{ rnk: 4, lora_alhpa: 3 }, ['"lora_alhpa" (nearest: lora_alpha', '"rnk"']],
    [{ r: "8" }, ["The field r of a LORA config", "a whole number above 0", '"8" (a string)']],
    [{ r: 2.5 }, ["r", "whole number", "2.5"]],
    [{ r: 0 }, ["whole number above 0", "found 0"]],
    [{ lora_dropout: "a lot" }, ["loraDropout (lora_dropout in adapter_config.json)", "a number"]],
    [{ lora_dropout: 1 }, ["from 0 up to, not including, 1", "found 1"]],
    [{ lora_dropout: -0.1 }, ["-0.1"]],
    [{ target_modules: ["q", 3] }, ["targetModules", "a list of strings, a string or null"]],
    [{ target_modules: { q: 1 } }, ["targetModules", "an object"]],
    [{ bias: "some" }, ["none, all, lora_only", '"some"']],
    [{ use_dora: 1 }, ["true or false", "1 (a number)"]],
    [{ rank_pattern: { v_proj: 0 } }, ["rankPattern", "0 (a number)", 'rankPattern["v_proj"]']],
    [{ alpha_pattern: [4] }, ["alphaPattern", "a list"]],
    [{ task_type: "CHAT" }, ["SEQ_CLS, SEQ_2_SEQ_LM, CAUSAL_LM", '"CHAT"']],
    [{ init_lora_weights: 3 }, ["initLoraWeights", "3 (a number)"]],
    [{ init_lora_weights: "zeros" }, ["initLoraWeights", '"zeros"', "pissa_niter_"]],
    [{ init_lora_weights: "pissa_niter" }, ['"pissa_niter"']],
    [{ layers_to_transform: 1.5 }, ["layersToTransform", "1.5"]],
    [{ trainable_token_indices: [-1] }, ["trainableTokenIndices", "-1"]],
    [{ rank_pattern: { "q(": 3 } }, ["q(", "regular expression"]],
  ];
  for (const [fields, parts] of cases) {
    const error = assertThrows(() => fromPeftJson({ peft_type: "LORA", ...fields }), ConfigError);
    for (const part of parts) assertStringIncludes(error.message, part, JSON.stringify(fields));
  }
  const error = assertThrows(() => loraConfig({ targetModule: ["q"] } as never), ConfigError);
  assertStringIncludes(error.message, '"targetModule" (nearest: targetModules');
  assertThrows(() => fromPeftJson({ r: 4 }), ConfigError, "peft_type");
  assertThrows(() => fromPeftJson({ peft_type: "MINE" }), UnsupportedError, '"MINE"');
  assertThrows(() => loraSchema.check?.({ ...loraConfig(), r: 3, initLoraWeights: "orthogonal" }));
});

Deno.test("what PEFT refuses when a config is made is refused", async () => {
  const refused = JSON.parse(await Deno.readTextFile(new URL("refused.json", GOLDEN)));
  const known = Object.entries<{ stage?: string; config: Record<string, unknown> }>(refused)
    .filter(([name, { stage }]) =>
      stage === "config" || /^(rank|bias|init|orthogonal)_/.test(name)
    );
  assert(known.length >= 12);
  for (const [name, { config }] of known) {
    assertThrows(
      () => fromPeftJson({ peft_type: "LORA", task_type: "CAUSAL_LM", ...config }),
      ConfigError,
      undefined,
      name,
    );
  }
});

Deno.test("variants that are not available say what is", () => {
  const fields = { megatron_config: { tensor_model_parallel_size: 2 } };
  const error = assertThrows(
    () => fromPeftJson({ peft_type: "LORA", ...fields }),
    UnsupportedError,
  );
  assertStringIncludes(error.message, "vailable");
  assertStringIncludes(error.message, '"olora"');
  // What Python takes for "not set" is not set.
  fromPeftJson({ peft_type: "LORA", alora_invocation_tokens: [], loftq_config: null });
});

Deno.test("rank and scale follow the first pattern that matches", () => {
  const site = (path: string): Site => ({
    path,
    kind: "linear",
    inFeatures: 5,
    outFeatures: 7,
    bias: false,
  });
  const config = loraConfig({
    r: 4,
    loraAlpha: 6,
    rankPattern: { "^model\\.layers\\.0\\..*": 9, v_proj: 2, "[qv]_proj": 16 },
    alphaPattern: { "layers.1.v_proj": 5 },
  });
  assertEquals(loraShape(config, site("model.layers.0.v_proj")), { r: 9, scale: 6 / 9 });
  assertEquals(loraShape(config, site("model.layers.1.v_proj")), { r: 2, scale: 5 / 2 });
  assertEquals(loraShape(config, site("model.layers.1.q_proj")), { r: 16, scale: 6 / 16 });
  assertEquals(loraShape(config, site("model.layers.1.xv_proj")), { r: 4, scale: 6 / 4 });
  const root = loraConfig({ ...config, useRslora: true });
  assertEquals(loraShape(root, site("model.layers.1.v_proj")).scale, 5 / Math.sqrt(2));
});

Deno.test("a config is complete, frozen and its own", () => {
  const targetModules = ["q_proj"];
  const config = loraConfig({ targetModules });
  targetModules.push("k_proj");
  assertEquals(config.targetModules, ["q_proj"]);
  assertThrows(() => Object.assign(config, { r: 3 }), TypeError);
  assertEquals(loraConfig(config), config);
  assertEquals(loraConfig({ r: undefined }), loraConfig());
});
