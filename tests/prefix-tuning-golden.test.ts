/**
 * Walks the golden cases of prefix tuning on each device: logits, generated text, gradients, AdamW losses and files of the real PEFT.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { forward } from "../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../lib/adapters/inject.ts";
import { parameterLeaf, trainableLeaves, withLeaves } from "../lib/adapters/leaves.ts";
import { loadAdapter } from "../lib/adapters/checkpoint/load.ts";
import { mergeAndUnload } from "../lib/adapters/merge/merge.ts";
import type { AnyModel, PeftModel } from "../lib/adapters/peft-model.ts";
import { planAdapter } from "../lib/adapters/plan/plan.ts";
import { savePretrained } from "../lib/adapters/checkpoint/save.ts";
import { deleteAdapter, disableAdapters, setAdapter } from "../lib/adapters/select.ts";
import { getAdapterStateDict, setAdapterStateDict } from "../lib/adapters/checkpoint/state-dict.ts";
import { getNbTrainableParameters } from "../lib/adapters/status/trainable-parameters.ts";
import { ConfigError, UnsupportedError, ValueError } from "../lib/errors.ts";
import { openDecoder } from "../lib/generation/decoder.ts";
import { generate } from "../lib/generation/generate.ts";
import { maxPositionsOf } from "../lib/generation/prompt.ts";
import { argmax } from "../lib/generation/sampling.ts";
import { readJsonFile } from "../lib/io/json.ts";
import { createModel } from "../lib/io/load-model.ts";
import { openSafetensors } from "../lib/io/safetensors.ts";
import { loraConfig } from "../lib/methods/lora/lora-config.ts";
import { prefixTuningConfig } from "../lib/methods/prefix-tuning.ts";
import type { ModelGraph } from "../lib/model/model-graph.ts";
import { toFloat32 } from "../lib/tensor/convert.ts";
import type { Tensor } from "../lib/tensor/tensor.ts";
import { train } from "../lib/training/train.ts";
import { golden, goldenBase } from "./adapters/bases.ts";
import { testDevice, testOnceOnWebGpu } from "./devices.ts";
import {
  assertLogits,
  batchOf,
  type CaseRecord,
  type Expected,
  expectedOf,
  type GoldenCase,
  LOGITS,
  peftConfig,
} from "./golden-case.ts";
import { apart, differentiate } from "./steps.ts";
import index from "./golden/prefix_tuning/index.json" with { type: "json" };

/** Bounds: of gradients as a share of the largest, of losses relative. */
const GRADIENTS = 2e-5, LOSSES = 1e-5;

const cases: readonly GoldenCase[] = index.cases.map((entry) => ({
  ...entry,
  peftType: "PREFIX_TUNING",
  folder: `${golden}prefix_tuning/${entry.name}/`,
}));
const single = cases.filter(({ adapters }) => !adapters.length);
const several = cases.filter(({ adapters }) => adapters.length);

async function numbers(of: Tensor): Promise<number[]> {
  return Array.from(await of.data() as Int32Array, Number);
}

/** Logits of both batches and generated text. */
async function assertOutputs(
  model: AnyModel,
  expected: Expected,
  name = "adapted",
): Promise<void> {
  const logits = { right: `${name}.logits`, left: `left.${name}.logits` };
  await assertLogits(model, expected, { ...logits, what: name });

  const inputIds = expected.get("left.input_ids");
  const [rows, length] = inputIds.shape;
  const ids = await numbers(inputIds), mask = await numbers(expected.get("left.attention_mask"));
  const prompts = Array.from(
    { length: rows },
    (_, b) => ids.slice(b * length, (b + 1) * length).filter((_, t) => mask[b * length + t]),
  );
  const generated = expected.get(name === "adapted" ? "generated.ids" : `${name}.generated.ids`);
  const all = await numbers(generated), width = generated.shape[1];
  const texts = await generate(model, prompts, { maxNewTokens: width - length, eosTokenId: [] });
  texts.forEach(({ tokenIds }, b) => {
    const want = all.slice(b * width + length, (b + 1) * width);
    // A text ends at the model's last position here, and goes on beyond it in transformers.
    const ended = maxPositionsOf(model) < width && tokenIds.length > 0;
    assertEquals(tokenIds, ended ? want.slice(0, tokenIds.length) : want, `text of row ${b}`);
  });
}

/** The leaf of a parameter that has this name in PEFT. */
function leafOf(model: PeftModel, parameter: string): string {
  const adapter = model.adapters.get("default")!;
  const own = parameter.match(/^prompt_encoder\.default\.(.*)$/)?.[1];
  if (!own) {
    const name = parameter.replace("base_model.", "").replace("modules_to_save.default.", "");
    return parameterLeaf(adapter, model.base, { name, position: 0 })!.leaf;
  }
  const flat = adapter.parts.get("shared")!.leaves.prompt_embeddings.kind === "trained";
  return `a0.shared.${
    own === "embedding.weight" && flat ? "prompt_embeddings" : own.replaceAll(".", "_")
  }`;
}

function named(expected: Expected, prefix: string): [string, Tensor][] {
  return [...expected.names()].filter((key) => key.startsWith(prefix))
    .map((key) => [key.slice(prefix.length), expected.get(key)]);
}

/** An adapter of the case's config with the parameters that PEFT's had, encoder included. */
function trained(expected: Expected, base: ModelGraph): PeftModel {
  const model = getPeftModel(base, peftConfig("PREFIX_TUNING", expected.record.config!));
  const leaves = named(expected, "parameter.")
    .map(([parameter, value]): [string, Tensor] => [leafOf(model, parameter), value]);
  assertEquals(leaves.map(([leaf]) => leaf).sort(), [...trainableLeaves(model).keys()].sort());
  return withLeaves(model, new Map(leaves));
}

async function assertSameTensors(
  got: ReadonlyMap<string, Tensor>,
  want: ReadonlyMap<string, Tensor>,
  tolerance: number,
): Promise<void> {
  assertEquals([...got.keys()].sort(), [...want.keys()].sort());
  for (const [key, value] of want) {
    assertEquals(got.get(key)!.shape, value.shape, key);
    const difference = apart(await toFloat32(got.get(key)!), await toFloat32(value));
    assert(difference <= tolerance, `${key}: ${difference} of the largest`);
  }
}

for (const { name, kind, folder } of single) {
  testOnceOnWebGpu(`golden prefix tuning ${name}`, async (device) => {
    const expected = await expectedOf({ folder }), { record } = expected;
    const base = await goldenBase(kind, device);
    const inputs = { inputIds: expected.get("in.input_ids") };
    const plain = await forward(base, inputs);

    const loaded = await loadAdapter(base, folder);
    assertEquals(loaded.trainable, []);
    await assertOutputs(loaded, expected);
    const off = await forward(disableAdapters(loaded), inputs);
    assertEquals(await off.logits.data(), await plain.logits.data());

    const model = trained(expected, base);
    await assertOutputs(model, expected);
    const batch = batchOf(expected);
    const { grads } = await differentiate(model, batch);
    const wanted = new Map<string, Float32Array>();
    for (const [parameter, value] of named(expected, "grad.")) {
      wanted.set(leafOf(model, parameter), await toFloat32(value));
    }
    assertEquals([...grads.keys()].sort(), [...wanted.keys()].sort());
    const largest = Math.max(...[...wanted.values()].map((g) => Math.max(...g.map(Math.abs))));
    for (const [leaf, want] of wanted) {
      const difference = apart(grads.get(leaf)!, want, largest);
      assert(difference < GRADIENTS, `gradient of ${leaf}: ${difference} of the largest`);
    }
    const losses = record.losses!;
    const { history } = await train(model, [batch], {
      learningRate: record.optimizer!.lr,
      weightDecay: record.optimizer!.weight_decay,
      steps: losses.length,
      // PEFT cannot compute activations of a prefix again.
      gradientCheckpointing: name.startsWith("llama"),
    });
    history.forEach(({ loss }, i) => {
      const difference = Math.abs(loss - losses[i]) / losses[i];
      assert(difference < LOSSES, `loss ${i}: ${loss}, not ${losses[i]} (${difference})`);
    });
  });
}

for (const { name, kind, folder, adapters } of several) {
  testOnceOnWebGpu(`golden prefix tuning ${name}`, async (device) => {
    const expected = await expectedOf({ folder });
    let model: AnyModel = await goldenBase(kind, device);
    for (const adapterName of adapters) {
      model = await loadAdapter(model, folder, { adapterName, subfolder: adapterName });
    }
    const all = model as PeftModel;
    assertEquals(all.active, [adapters[0]]);
    for (const adapterName of adapters) {
      await assertOutputs(setAdapter(all, adapterName), expected, `adapted.${adapterName}`);
    }
    assertThrows(() => setAdapter(all, adapters), UnsupportedError, "virtual tokens");
    await assertRejects(
      () => forward(all, { inputIds: [[1, 2], [3, 4]], adapterNames: adapters }),
      UnsupportedError,
    );
    assertEquals(deleteAdapter(all, adapters[0]).active, [adapters[1]]);
  });
}

for (const { name, kind, folder } of single) {
  Deno.test(`PEFT's files of prefix tuning are read and written: ${name}`, async () => {
    const expected = await expectedOf({ folder });
    const record = expected.record as CaseRecord & { readonly all_parameters: number };
    const base = await goldenBase(kind, await testDevice("cpu"));
    const { tensors } = await openSafetensors(`${folder}adapter_model.safetensors`);
    const loaded = await loadAdapter(base, folder);
    await assertSameTensors(getAdapterStateDict(loaded), tensors, 0);

    // The encoder's prefix is computed here as it is in PEFT.
    const model = trained(expected, base);
    await assertSameTensors(getAdapterStateDict(model), tensors, 1e-6);
    const { trainable_parameters: trainable, all_parameters: all } = record;
    const plan = planAdapter(base, peftConfig("PREFIX_TUNING", record.config!));
    assertEquals(plan.trainableParameters, trainable);
    assertEquals(getNbTrainableParameters(model), { trainable: trainable!, all });

    const out = await Deno.makeTempDir();
    try {
      await savePretrained({ ...model, base: { ...base, source: `base/${kind}` } }, out);
      const written = await openSafetensors(`${out}/adapter_model.safetensors`);
      await assertSameTensors(written.tensors, tensors, 1e-6);
      const [ours, theirs] = await Promise.all(
        [out, folder].map((at) => readJsonFile(`${at}/adapter_config.json`)),
      );
      assertEquals({ ...ours, base_model_name_or_path: theirs.base_model_name_or_path }, theirs);
      const again = await loadAdapter(base, out);
      await assertSameTensors(getAdapterStateDict(again), written.tensors, 0);
    } finally {
      await Deno.remove(out, { recursive: true });
    }
  });
}

Deno.test("what prefix tuning cannot do is refused", async () => {
  const base = await goldenBase("llama");
  const config = prefixTuningConfig({ numVirtualTokens: 3 });
  const model = getPeftModel(base, config);
  assertThrows(() => mergeAndUnload(model), UnsupportedError);
  assertThrows(() => getPeftModel(base, prefixTuningConfig()), ConfigError, "numVirtualTokens");
  const withLora = addAdapter(model, "lora", loraConfig({ taskType: "CAUSAL_LM" }));
  assertThrows(() => setAdapter(withLora, ["default", "lora"]), UnsupportedError, "PREFIX_TUNING");

  const projected = getPeftModel(
    base,
    prefixTuningConfig({ numVirtualTokens: 3, prefixProjection: true }),
  );
  await assertRejects(
    () => setAdapterStateDict(projected, getAdapterStateDict(projected)),
    UnsupportedError,
    "computed from what is trained",
  );
});

Deno.test("learned positions leave room for the virtual tokens", async () => {
  const model = getPeftModel(
    await goldenBase("gpt2"),
    prefixTuningConfig({ numVirtualTokens: 60 }),
  );
  await assertRejects(() => forward(model, { inputIds: [[1, 2, 3, 4, 5]] }), ValueError);
  await assertRejects(() => generate(model, [1, 2, 3, 4, 5]), ValueError);
});

Deno.test("a prefix from a file can be trained further", async () => {
  const base = await goldenBase("llama");
  const flat = await loadAdapter(base, `${golden}prefix_tuning/llama`, { isTrainable: true });
  assertEquals([...trainableLeaves(flat).keys()], ["a0.shared.prompt_embeddings"]);
  // Without the encoder that made it, the prefix itself is trained.
  const projected = setAdapter(
    await loadAdapter(base, `${golden}prefix_tuning/llama_projected`),
    "default",
  );
  assertEquals([...trainableLeaves(projected).keys()], ["a0.shared.prompt_embeddings"]);
});

testOnceOnWebGpu("generation with a prefix equals forward passes", async (device) => {
  const base = await createModel({
    model_type: "llama",
    vocab_size: 96,
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 1024,
    initializer_range: 0.3,
  }, { device, seed: 2 });
  const model = getPeftModel(base, prefixTuningConfig({ numVirtualTokens: 7 }), { seed: 3 });
  // Prompts of more than one part (512 positions); and a cache (64 positions) that has to grow.
  for (
    const { lengths, expected } of [{ lengths: [515, 530], expected: 4 }, {
      lengths: [57, 52],
      expected: 0,
    }]
  ) {
    const rows = lengths.map((length, b) =>
      Array.from({ length }, (_, t) => 1 + (t * t * (3 + b) + 7 * t + b) % 95)
    );
    using decoder = await openDecoder(model, rows, { expected });
    const scores = [decoder.logits.slice()];
    for (let step = 0; step < 3; step++) {
      const next = Int32Array.from(
        rows,
        (_, b) => argmax(decoder.logits.subarray(b * 96, (b + 1) * 96)),
      );
      rows.forEach((row, b) => row.push(next[b]));
      await decoder.step(next);
      scores.push(decoder.logits.slice());
    }
    for (const [b, row] of rows.entries()) {
      const { logits } = await forward(model, { inputIds: [row] });
      const all = await toFloat32(logits);
      scores.forEach((score, step) => {
        const at = (lengths[b] + step - 1) * 96;
        const difference = apart(score.subarray(b * 96, (b + 1) * 96), all.subarray(at, at + 96));
        assert(difference < LOGITS, `${lengths[b]} tokens, step ${step}: ${difference}`);
      });
    }
  }
});
