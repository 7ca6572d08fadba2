import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { shapesOf } from "../../lib/adapters/plan/plan-targets.ts";
import { ConfigError } from "../../lib/errors.ts";
import { methodOf } from "../../lib/methods/mod.ts";
import { fromPeftJson, toPeftJson } from "../../lib/methods/peft-json.ts";
import {
  prefixTuning,
  type PrefixTuningConfig,
  prefixTuningConfig,
} from "../../lib/methods/prefix-tuning.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { golden, goldenBase } from "../adapters/bases.ts";
import { testDevice } from "../devices.ts";
import { type LeafRules, makeLeaves } from "./make-leaves.ts";
import index from "../golden/prefix_tuning/index.json" with { type: "json" };

const FOLDER = `${golden}prefix_tuning/`;

/** Leaves by the names that their parameters have in PEFT. */
const LEAVES: Readonly<Record<string, string>> = {
  "transform.0.weight": "transform_0_weight",
  "transform.0.bias": "transform_0_bias",
  "transform.2.weight": "transform_2_weight",
  "transform.2.bias": "transform_2_bias",
};

function peftConfig(fields: Readonly<Record<string, unknown>>): PrefixTuningConfig {
  const json = { peft_type: "PREFIX_TUNING", task_type: "CAUSAL_LM", ...fields };
  return fromPeftJson(json) as PrefixTuningConfig;
}

/** The config with the sizes that follow from the model. */
function completed(config: PrefixTuningConfig, model: ModelGraph): PrefixTuningConfig {
  return prefixTuning.config.fit!(config, model);
}

function rulesOf(config: PrefixTuningConfig, model: ModelGraph): LeafRules {
  return prefixTuning.leaves.adapter!({ config, model, sites: [] });
}

Deno.test("every adapter_config.json of PEFT's prefix tuning is read and written again byte for byte", async () => {
  for (const { name, adapters } of index.cases) {
    for (const adapter of adapters.length ? adapters : ["."]) {
      const text = await Deno.readTextFile(`${FOLDER}${name}/${adapter}/adapter_config.json`);
      const config = fromPeftJson(JSON.parse(text));
      assertEquals(toPeftJson(config), text, name);
      assertEquals(fromPeftJson(JSON.parse(toPeftJson(config))), config);
    }
  }
});

Deno.test("a default prefix tuning config is PEFT's, with all its fields", () => {
  assertEquals(JSON.parse(toPeftJson(prefixTuningConfig())), {
    auto_mapping: null,
    base_model_name_or_path: null,
    encoder_hidden_size: null,
    inference_mode: true,
    init_weights: null,
    modules_to_save: null,
    num_attention_heads: null,
    num_layers: null,
    num_transformer_submodules: null,
    num_virtual_tokens: null,
    peft_type: "PREFIX_TUNING",
    peft_version: "0.21.0",
    prefix_projection: false,
    revision: null,
    task_type: null,
    token_dim: null,
  });
  assertEquals(methodOf("PREFIX_TUNING").config.mixes ?? false, false);
});

Deno.test("a prefix tuning config takes no targets, no other init and no sizes below 1", () => {
  for (
    const wrong of [
      { targetModules: ["q_proj"] },
      { initWeights: "one" },
      { numVirtualTokens: 0 },
      { encoderHiddenSize: 2.5 },
      { prefixProjection: null },
    ]
  ) {
    assertThrows(() => prefixTuningConfig(wrong as Partial<PrefixTuningConfig>), ConfigError);
  }
});

for (
  const { name, kind, config, completed: sizes, stage } of index.completed as readonly Completed[]
) {
  Deno.test(`sizes of a prefix as PEFT completes them: ${name}`, async () => {
    const base = await goldenBase(kind);
    const complete = () => completed(peftConfig(config), base);
    if (name === "no_task_type") {
      // PEFT cannot go on without a task type; here it follows from the model.
      assertEquals(complete().taskType, "CAUSAL_LM");
    } else if (name === "other_init" || (stage && name !== "gpt2_too_long")) {
      // Where PEFT fails at the first forward pass or takes what it does not know, the config is refused.
      const { message } = assertThrows(complete, ConfigError) as ConfigError;
      assert(/numVirtualTokens|tokenDim|numLayers|numTransformer|init|no field/.test(message));
    } else {
      const done = complete();
      assertEquals({
        token_dim: done.tokenDim,
        num_layers: done.numLayers,
        num_attention_heads: done.numAttentionHeads,
        num_transformer_submodules: done.numTransformerSubmodules,
        encoder_hidden_size: done.encoderHiddenSize,
      }, sizes!);
      assertEquals(completed(done, base), done);
    }
  });
}

interface Completed {
  readonly name: string;
  readonly kind: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly completed?: Readonly<Record<string, number | null>>;
  readonly stage?: string;
}

for (const { name, kind, seed, config, next_uniform } of index.init) {
  Deno.test(`a prefix starts with the values that torch gives: ${name}`, async () => {
    const model = await goldenBase(kind);
    const complete = completed(peftConfig(config), model);
    const random = createTorchRandom(seed);
    const rules = rulesOf(complete, model);
    const weight = () => Promise.reject(new Error("not needed"));
    const made = await makeLeaves(rules, { random, weight });
    assertEquals(random.uniform(1)[0], next_uniform);
    const { tensors } = await openSafetensors(`${FOLDER}init/${name}.safetensors`);
    assertEquals(Object.keys(made).length, tensors.size);
    for (const [parameter, want] of tensors) {
      const own = parameter.replace("prompt_encoder.default.", "");
      const leaf = LEAVES[own] ??
        (complete.prefixProjection ? "embedding_weight" : "prompt_embeddings");
      const got = made[leaf];
      assertEquals(got.shape, want.shape, leaf);
      assertEquals(shapesOf(rules, "trained")[leaf], want.shape, leaf);
      const [a, b] = [await toFloat32(got), await toFloat32(want)];
      b.forEach((value, i) => assertAlmostEquals(a[i], value, 2e-7 * Math.max(1, Math.abs(value))));
    }
  });
}

Deno.test("what an encoder computes is saved in its place", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const config = completed(
    prefixTuningConfig({ numVirtualTokens: 2, prefixProjection: true, encoderHiddenSize: 3 }),
    base,
  );
  const rules = rulesOf(config, base);
  const random = createTorchRandom(5);
  const leaves = Object.fromEntries(
    Object.entries(shapesOf(rules, "trained")).map(([leaf, shape]) => {
      const size = shape.reduce((n, d) => n * d, 1);
      return [leaf, tensor(random.normal(size, { std: 0.7 }), { shape })];
    }),
  );
  assertEquals(Object.keys(leaves).length, 5);
  // Nothing but what the encoder computes has a key.
  for (const leaf of Object.keys(leaves)) assertEquals(rules[leaf].key, null, leaf);
  const { prompt_embeddings, ...others } = rules;
  assertEquals(Object.keys(others), Object.keys(leaves));
  assertEquals([prompt_embeddings.kind, prompt_embeddings.key], ["derived", undefined]);
  const saved = prompt_embeddings.saved!(leaves);
  assertEquals([saved.shape, prompt_embeddings.shape], [[2, 64], [2, 64]]);
  const at: Record<string, Float32Array> = {};
  for (const leaf in leaves) at[leaf] = await toFloat32(leaves[leaf]);
  const hidden = (token: number, h: number) => {
    let x = at.transform_0_bias[h];
    for (let i = 0; i < 16; i++) {
      x += at.embedding_weight[token * 16 + i] * at.transform_0_weight[h * 16 + i];
    }
    return Math.tanh(x);
  };
  const got = await toFloat32(saved);
  for (const [token, column] of [[0, 0], [0, 63], [1, 17]]) {
    let want = at.transform_2_bias[column];
    for (let h = 0; h < 3; h++) want += hidden(token, h) * at.transform_2_weight[column * 3 + h];
    assertAlmostEquals(got[token * 64 + column], want, 1e-6);
  }
  assertEquals(await saved.data(), got);

  // Without the encoder, as after loading, the prefix itself is what there is.
  const loaded = { ...config, inferenceMode: true };
  const { prompt_embeddings: prefix, ...none } = rulesOf(loaded, base);
  assertEquals(none, {});
  assertEquals([prefix.shape, prefix.key], [[2, 64], "prompt_embeddings"]);
  assertEquals([prefix.kind ?? "trained", prefix.saved], ["trained", undefined]);
});
