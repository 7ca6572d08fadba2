import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import { planAdapter } from "../../lib/adapters/plan/plan.ts";
import { shapesOf } from "../../lib/adapters/plan/plan-targets.ts";
import { setAdapter } from "../../lib/adapters/select.ts";
import { ConfigError } from "../../lib/errors.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { IA3_FEEDFORWARD, IA3_TARGETS } from "../../lib/methods/default-targets.ts";
import { ia3, type Ia3Config, ia3Config } from "../../lib/methods/ia3.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { defaultMethods, prefixOf } from "../../lib/methods/mod.ts";
import { fromPeftJson, toPeftJson } from "../../lib/methods/peft-json.ts";
import { isScalable, mergeRule, ruleAt, runRule } from "../../lib/methods/site-rule.ts";
import type { ForwardPass } from "../../lib/model/forward-pass.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import type { Site } from "../../lib/model/site.ts";
import { input } from "../../lib/ops/input.ts";
import { createGraph, type Value } from "../../lib/ops/value.ts";
import { programOf } from "../../lib/program/program.ts";
import { goldenBase, noDevice } from "../adapters/bases.ts";
import { randomized } from "../adapters/randomized.ts";
import { testOnDevices } from "../devices.ts";
import { apart } from "../steps.ts";

Deno.test("a default config is PEFT's, with all its fields", () => {
  assertEquals(JSON.parse(toPeftJson(ia3Config())), {
    auto_mapping: null,
    base_model_name_or_path: null,
    exclude_modules: null,
    fan_in_fan_out: false,
    feedforward_modules: null,
    inference_mode: true,
    init_ia3_weights: true,
    modules_to_save: null,
    peft_type: "IA3",
    peft_version: "0.21.0",
    revision: null,
    target_modules: null,
    task_type: null,
  });
  assert(Object.isFrozen(ia3Config()));
  const old = { peft_type: "IA3", target_modules: ["k"], feedforward_modules: [] };
  assertEquals(fromPeftJson(old), ia3Config({ targetModules: ["k"], feedforwardModules: [] }));
  const method = defaultMethods.get("IA3")!;
  assertEquals(method, ia3);
  const scales = isScalable({ method, config: ia3Config() });
  assertEquals([method.config.mixes, prefixOf(method), scales], [true, "ia3_", false]);
});

Deno.test("unknown and ill-typed fields are named, with what was found", () => {
  const cases: [Record<string, unknown>, string[]][] = [
    [{ feedforward_module: ["a"] }, ['"feedforward_module" (nearest: feedforward_modules']],
    [{ layers_to_transform: [0] }, ['no field "layers_to_transform"']],
    [{ constructor: 1 }, ['no field "constructor"']],
    [{ bias: "all" }, ['no field "bias"']],
    [{ feedforward_modules: 3 }, [
      "feedforwardModules",
      "a list of strings, a string or null",
      "3",
    ]],
    [{ init_ia3_weights: "no" }, ["initIa3Weights (init_ia3_weights in", "true or false", '"no"']],
    [{ fan_in_fan_out: 0 }, ["fanInFanOut", "0 (a number)"]],
    [{ modules_to_save: "head" }, ["modulesToSave", "a list of strings or null"]],
    [{ task_type: "CHAT" }, ["taskType", '"CHAT"']],
    [{ feedforward_modules: "(" }, ["(", "regular expression"]],
    [
      { target_modules: ["q", "k"], feedforward_modules: ["k", "v", "w"] },
      ["feedforwardModules should be a subset of targetModules", '"v", "w" are not among'],
    ],
  ];
  for (const [fields, parts] of cases) {
    const error = assertThrows(() => fromPeftJson({ peft_type: "IA3", ...fields }), ConfigError);
    for (const part of parts) assertStringIncludes(error.message, part, JSON.stringify(fields));
  }
  // An expression on either side is not compared.
  ia3Config({ targetModules: ".*k", feedforwardModules: ["v"] });
  ia3Config({ targetModules: ["k"], feedforwardModules: ".*v" });
});

Deno.test("feed-forward modules that are left out are those of PEFT, where they are targets", () => {
  const model = (model_type: string) => ({ config: { model_type } }) as unknown as ModelGraph;
  const complete = (config: Partial<Ia3Config>, type = "llama") =>
    ia3.config.fit!(ia3Config(config), model(type)).feedforwardModules;
  for (const [type, targets] of Object.entries(IA3_TARGETS)) {
    assertEquals(complete({ targetModules: targets }, type), IA3_FEEDFORWARD[type]);
  }
  assertEquals(complete({}), ["down_proj"]);
  assertEquals(complete({ targetModules: "all-linear" }), ["down_proj"]);
  assertEquals(complete({ targetModules: ".*k_proj" }), ["down_proj"]);
  assertEquals(complete({ targetModules: ["k_proj"] }), []);
  assertEquals(complete({ targetModules: ["k_proj"], feedforwardModules: [] }), []);
  assertEquals(complete({ feedforwardModules: ".*q" }), ".*q");
  const layers = ["a.0.down_proj", "a.1.down_proj", "a.1.k_proj"];
  assertEquals(complete({ targetModules: layers }), layers.slice(0, 2));
  // A target that reaches further than the feed-forward modules needs an expression.
  assertEquals(complete({ targetModules: ["c_attn", "c_proj"] }, "gpt2"), ".*(mlp\\.c_proj)");
  const error = assertThrows(() => complete({}, "opus"), ConfigError, '"opus"');
  assertEquals(error.code, "CONFIG_NO_FEEDFORWARD");
  assertEquals(complete({ targetModules: ["k"], feedforwardModules: ["k"] }, "opus"), ["k"]);
});

Deno.test("long lists of targets stay as they are, so that feed-forward modules are among them", async () => {
  const model = await createModel({
    model_type: "llama",
    vocab_size: 8,
    hidden_size: 8,
    intermediate_size: 12,
    num_hidden_layers: 3,
    num_attention_heads: 2,
  }, { device: noDevice });
  const planned = planAdapter(model, ia3Config({ targetModules: "all-linear" }));
  const config = planned.config as unknown as Ia3Config;
  assertEquals(config.targetModules, planned.sites.map(({ site }) => site.path));
  assertEquals(config.targetModules!.length, 21);
  assertEquals(
    config.feedforwardModules,
    [0, 1, 2].map((layer) => `model.layers.${layer}.mlp.down_proj`),
  );
});

Deno.test("what is named in vain is refused", async () => {
  const base = await goldenBase("llama");
  for (const targetModules of [null, "all-linear"]) {
    const config = ia3Config({ targetModules, feedforwardModules: ["c_proj"] });
    const error = assertThrows(() => planAdapter(base, config), ConfigError);
    assertStringIncludes(error.message, '"c_proj" is not among');
  }
  const all = planAdapter(base, ia3Config({ targetModules: "all-linear" })).config as unknown;
  assertEquals((all as Ia3Config).feedforwardModules, [
    "model.layers.0.mlp.down_proj",
    "model.layers.1.mlp.down_proj",
  ]);
  // Asked for once more, a complete config stays as it is.
  assertEquals(planAdapter(base, all as Ia3Config).config, all);
});

const LINEAR: Site = {
  path: "h.0.mlp.c_proj",
  kind: "linear",
  inFeatures: 7,
  outFeatures: 5,
  bias: true,
};

Deno.test("outputs are scaled by a column, inputs of feed-forward modules by a row", () => {
  const conv: Site = { ...LINEAR, kind: "conv1d" };
  const ops = (feedforwardModules: string[], site: Site) => {
    const config = ia3Config({ targetModules: ".*", feedforwardModules });
    const rules = ia3.leaves.site!({ config, model: {} as ModelGraph, site, sites: [site] });
    const { ia3_l: shape } = shapesOf(rules, "trained");
    const rule = ruleAt({ method: ia3, config }, site.kind)!;
    const graph = createGraph();
    const value = (name: string, shape: readonly number[]) =>
      input(graph, name, { shape, dtype: "f32" });
    const trace = {
      pass: {} as ForwardPass,
      site,
      config,
      leaves: { ia3_l: value("l", shape) },
      shared: {},
      multiplier: 1,
    } as const;
    const [x, result] = [value("x", [6, 7]), value("y", [6, 5])];
    const base = (x: Value) => {
      assertEquals(x.shape, [6, 7]);
      return value("z", [6, 5]);
    };
    const y = runRule(rule, trace, { x, result, base, weight: () => result });
    assertEquals(y.shape, [6, 5]);
    const bias = value("b", [5]);
    const merged = mergeRule(rule, trace, {
      weight: value("w", site.kind === "conv1d" ? [7, 5] : [5, 7]),
      bias,
    });
    assertEquals(merged.bias!.shape, [5]);
    return {
      shape,
      forward: programOf({ y }).nodes.filter((v) => v.op === "binary").map((v) => v.shape),
      merged: merged.weight.shape,
      bias: merged.bias !== bias,
    };
  };
  assertEquals(ops([], LINEAR), { shape: [5, 1], forward: [[6, 5]], merged: [5, 7], bias: true });
  assertEquals(ops([], conv), { shape: [5, 1], forward: [[6, 5]], merged: [7, 5], bias: true });
  // The base runs on the scaled input: what it gives is the result.
  for (const name of ["c_proj", "p.c_proj", "roj", LINEAR.path]) {
    const row = { shape: [1, 7], forward: [], bias: false };
    assertEquals(ops([name], LINEAR), { ...row, merged: [5, 7] }, name);
    assertEquals(ops([name], conv), { ...row, merged: [7, 5] }, name);
  }
});

const INPUTS = { inputIds: [[5, 17, 53, 2, 41], [31, 9, 5, 58, 12]] };

testOnDevices(
  "adapters on both sides of a layer, and LoRAs among them, merge to what they give",
  async (device) => {
    for (const kind of ["qwen2", "gpt2"]) {
      const base = await goldenBase(kind, device);
      const targetModules = kind === "gpt2" ? ["c_attn", "mlp.c_proj"] : ["k_proj", "down_proj"];
      const configs = {
        out: ia3Config({ targetModules, feedforwardModules: [] }),
        in: ia3Config({ targetModules, feedforwardModules: targetModules }),
        low: loraConfig({ r: 3, loraAlpha: 5, targetModules }),
      };
      const first = getPeftModel(base, configs.out, { adapterName: "out" });
      const all = await randomized(
        addAdapter(addAdapter(first, "in", configs.in), "low", configs.low),
        3,
      );
      const seen: Float32Array[] = [];
      for (const order of [["out", "in"], ["in", "low", "out"], ["low", "out", "in"]]) {
        const model = setAdapter(all, order);
        const got = await (await forward(model, INPUTS)).logits.data() as Float32Array;
        const merged = await (await forward(mergeAndUnload(model), INPUTS)).logits.data();
        assert(apart(merged as Float32Array, got) < 1e-5, `${kind} ${order}`);
        seen.push(got);
      }
      // A LoRA before a factor is scaled by it, one after it is not.
      assert(apart(seen[1], seen[2]) > 1e-3);
    }
  },
);
