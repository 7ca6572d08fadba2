import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { forward } from "../../../lib/adapters/forward.ts";
import {
  hotswapAdapter,
  prepareModelForCompiledHotswap,
  swapAdapter,
} from "../../../lib/adapters/combine/hotswap.ts";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { mergeAdapter } from "../../../lib/adapters/merge/merge.ts";
import { leavesAt, partsOfKind, withContents } from "../../../lib/adapters/parts.ts";
import type { AnyModel, PeftModel } from "../../../lib/adapters/peft-model.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { withAdapterScale } from "../../../lib/adapters/scope.ts";
import { setAdapter } from "../../../lib/adapters/select.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import type { Device } from "../../../lib/device/device.ts";
import { ShapeError, UnsupportedError, ValueError } from "../../../lib/errors.ts";
import { generate } from "../../../lib/generation/generate.ts";
import type { PeftConfig } from "../../../lib/methods/config.ts";
import { ia3Config } from "../../../lib/methods/ia3.ts";
import { type LoraConfig, loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { defaultMethods, type MethodRegistry } from "../../../lib/methods/mod.ts";
import type { ModelGraph } from "../../../lib/model/model-graph.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { testOnDevices } from "../../devices.ts";
import { goldenBase, peftLora } from "../bases.ts";
import { randomized } from "../randomized.ts";

const INPUTS = { inputIds: [[5, 41, 3, 60, 7], [9, 9, 12, 0, 33]] };

const registry: MethodRegistry = new Map(defaultMethods);

/** A device that counts the programs which it has not compiled before. */
function counting(device: Device): { readonly device: Device; readonly compiled: () => number } {
  const keys = new Set<string>();
  return {
    compiled: () => keys.size,
    device: {
      ...device,
      compile(program) {
        keys.add(program.key);
        return device.compile(program);
      },
    },
  };
}

async function logitsOf(model: AnyModel): Promise<Float32Array> {
  return await toFloat32((await forward(model, INPUTS)).logits);
}

/** The largest difference as a share of the largest logit. */
async function apart(a: AnyModel, b: AnyModel): Promise<number> {
  const [x, y] = [await logitsOf(a), await logitsOf(b)];
  return Math.max(...x.map((v, i) => Math.abs(v - y[i]))) / Math.max(...y.map(Math.abs));
}

/** A model with one adapter, none of whose leaves is zero. */
async function adapted(base: ModelGraph, config: PeftConfig, seed = 1): Promise<PeftModel> {
  return await randomized(getPeftModel(base, config, { registry, seed }), seed);
}

/** An adapter as its files. */
function partsOf(model: PeftModel) {
  const { config } = model.adapters.get("default")!;
  return { config, tensors: getAdapterStateDict(model) };
}

/** Checks that two models run the same programs, and that the second does what the third does. */
async function assertSwaps(resident: PeftModel, swapped: PeftModel, alone: AnyModel) {
  const { device, compiled } = counting(resident.base.device);
  const on = (model: PeftModel): PeftModel => ({ ...model, base: { ...model.base, device } });
  await logitsOf(on(resident));
  const before = compiled();
  await logitsOf(on(swapped));
  assertEquals(compiled(), before, "a program was compiled");
  const difference = await apart(swapped, alone);
  assert(difference < 2e-5, `${difference}`);
}

/** Saves a model, loads it again and checks that it does the same. */
async function assertSaves(model: PeftModel, base: ModelGraph): Promise<LoraConfig> {
  const folder = await Deno.makeTempDir();
  await savePretrained(model, folder, { registry });
  const again = await loadAdapter(base, folder, { registry });
  assert(await apart(again, model) < 1e-6, `${await apart(again, model)}`);
  await Deno.remove(folder, { recursive: true });
  return again.adapters.get("default")!.config as LoraConfig;
}

testOnDevices("ten adapters swapped in one after the other compile nothing", async (shared) => {
  const { device, compiled } = counting(shared);
  const base = await goldenBase("llama", device);
  const targets = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"];
  const resident = await adapted(base, loraConfig({ r: 8, loraAlpha: 16, targetModules: targets }));
  const prompt = [7, 8, 9];
  const write = (model: AnyModel) =>
    generate(model, prompt, { maxNewTokens: 4, eosTokenId: [], doSample: false });
  await logitsOf(resident);
  await write(resident);
  const before = compiled();
  const created = shared.memory().pipelinesCreated;

  const alone: { logits: Float32Array; tokens: unknown }[] = [];
  const folders: string[] = [];
  const root = await Deno.makeTempDir();
  for (let i = 0; i < 10; i++) {
    const config = loraConfig({
      r: 2 + i % 7,
      loraAlpha: [3, 8, 0.5, 32, 7][i % 5],
      useRslora: i % 3 === 1,
      rankPattern: i % 4 === 2 ? { q_proj: 1 } : {},
      alphaPattern: i % 4 === 3 ? { up_proj: 5 } : {},
      loraDropout: i / 20,
      targetModules: targets.slice(0, 3 + i % 3),
    });
    folders.push(join(root, String(i)));
    await savePretrained(await adapted(base, config, i), folders[i]);
  }
  let model = resident;
  for (const folder of folders) {
    const previous = model;
    model = await hotswapAdapter(model, folder);
    assert(previous !== model && previous.active === model.active);
    alone.push({ logits: await logitsOf(model), tokens: await write(model) });
  }
  assertEquals(compiled(), before, "programs");
  assertEquals(shared.memory().pipelinesCreated, created, "pipelines and sessions");

  for (const [i, folder] of folders.entries()) {
    const loaded = await loadAdapter(base, folder);
    const { logits, tokens } = alone[i];
    const expected = await logitsOf(loaded);
    const largest = Math.max(...expected.map(Math.abs));
    const error = Math.max(...expected.map((x, j) => Math.abs(x - logits[j])));
    assert(error < 2e-5 * largest, `${i}: ${error} of ${largest}`);
    assertEquals(tokens, await write(loaded));
  }
  assert(compiled() > before, "on their own, adapters of other ranks are other programs");
  await Deno.remove(root, { recursive: true });
});

testOnDevices("another factor compiles nothing after the first", async (shared) => {
  const { device, compiled } = counting(shared);
  const base = await goldenBase("llama", device);
  const model = await adapted(base, loraConfig({ r: 3 }));
  const outputs: number[] = [];
  const run = async (factor: number) => {
    const { value } = await withAdapterScale(model, factor, logitsOf);
    outputs.push(value[3]);
    return compiled();
  };
  const first = await run(0.5);
  for (const factor of [0.25, 2, -1, 0]) assertEquals(await run(factor), first);
  assertEquals(new Set(outputs).size, 5);
});

testOnDevices("every kind of LoRA takes another's place", async (device) => {
  const llama = await goldenBase("llama", device);
  const gpt2 = await goldenBase("gpt2", device);
  const qwen2 = await goldenBase("qwen2", device);
  const tied = await goldenBase("llama_tied", device);
  type Fields = Record<string, unknown>;
  const cases: [ModelGraph, Fields, Fields][] = [
    // A magnitude stays as it is; where the other has none, it is the weight's own length.
    [llama, { use_dora: true, r: 6, target_modules: ["q_proj", "v_proj", "embed_tokens"] }, {
      use_dora: true,
      r: 2,
      lora_alpha: 3,
      target_modules: ["v_proj"],
    }],
    [gpt2, { use_dora: true, r: 4, target_modules: ["c_attn", "c_fc", "wpe"] }, {
      use_dora: true,
      use_rslora: true,
      r: 3,
      target_modules: ["c_attn", "wpe"],
    }],
    [qwen2, { lora_bias: true, r: 4, target_modules: ["q_proj", "k_proj"] }, {
      lora_bias: true,
      r: 2,
      lora_alpha: 5,
      target_modules: ["q_proj"],
    }],
    [qwen2, { lora_bias: true, r: 4, target_modules: ["q_proj"] }, {
      r: 4,
      target_modules: ["q_proj"],
    }],
    // What PiSSA and OLoRA took out of the base takes as much room again.
    [llama, { r: 8, target_modules: ["q_proj"] }, {
      init_lora_weights: "pissa",
      r: 3,
      lora_alpha: 7,
      target_modules: ["q_proj"],
    }],
    [llama, { r: 6, use_dora: true, target_modules: ["q_proj"] }, {
      init_lora_weights: "olora",
      use_dora: true,
      r: 3,
      target_modules: ["q_proj"],
    }],
    [gpt2, { r: 4, target_modules: ["c_attn"], modules_to_save: ["ln_f"], bias: "lora_only" }, {
      r: 2,
      target_modules: ["c_attn"],
    }],
    [llama, { r: 4, target_modules: ["q_proj"], trainable_token_indices: [5, 60] }, {
      r: 2,
      lora_alpha: 1,
      target_modules: ["q_proj"],
      trainable_token_indices: [5, 60],
    }],
    [tied, { r: 4, target_modules: ["q_proj"], trainable_token_indices: [5, 60] }, {
      r: 2,
      target_modules: ["q_proj"],
    }],
    [tied, { r: 5, target_modules: ["embed_tokens", "q_proj"], ensure_weight_tying: true }, {
      r: 2,
      lora_alpha: 3,
      target_modules: ["lm_head"],
      ensure_weight_tying: true,
    }],
    [tied, { r: 5, target_modules: ["embed_tokens", "q_proj"], ensure_weight_tying: true }, {
      r: 2,
      target_modules: ["q_proj"],
    }],
    [tied, { r: 5, target_modules: ["embed_tokens", "lm_head"] }, {
      r: 2,
      target_modules: ["embed_tokens"],
      ensure_weight_tying: true,
    }],
    [tied, {
      r: 3,
      target_modules: ["q_proj"],
      modules_to_save: ["lm_head"],
      ensure_weight_tying: true,
    }, {
      r: 2,
      target_modules: ["q_proj"],
      modules_to_save: ["lm_head"],
      ensure_weight_tying: true,
    }],
  ];
  for (const [base, first, second] of cases) {
    const resident = await adapted(base, peftLora(first), 3);
    const other = await adapted(base, peftLora(second), 4);
    const alone = await loadAdapter(base, partsOf(other));
    assert(await apart(resident, alone) > 1e-3);
    await assertSwaps(resident, await hotswapAdapter(resident, partsOf(other)), alone);
    const swapped = swapAdapter(resident, other);
    await assertSwaps(resident, swapped, alone);
    const saved = await assertSaves(swapped, base);
    assertEquals(saved.r, first.r);
  }
});

testOnDevices("adapters of one structure are swapped bit for bit", async (device) => {
  const base = await goldenBase("llama", device);
  for (
    const config of [
      loraConfig({ r: 3, loraAlpha: 5, initLoraWeights: "pissa", targetModules: ["q_proj"] }),
      ia3Config({
        targetModules: ["k_proj", "down_proj"],
        feedforwardModules: ["down_proj"],
      }),
    ]
  ) {
    const [resident, other] = [await adapted(base, config, 1), await adapted(base, config, 2)];
    const swapped = await hotswapAdapter(resident, partsOf(other), { registry });
    assertEquals(await logitsOf(swapped), await logitsOf(other));
    await assertSwaps(resident, swapped, other);
    await assertSaves(swapped, base);
    assert(await apart(resident, other) > 1e-3);
  }
});

testOnDevices("one of several adapters is swapped, under its name", async (device) => {
  const base = await goldenBase("llama", device);
  const one = getPeftModel(base, loraConfig({ r: 4, targetModules: ["q_proj"] }));
  const two = addAdapter(one, "style", loraConfig({ r: 4, targetModules: ["q_proj", "v_proj"] }));
  const model = setAdapter(await randomized(two), ["style", "default"]);
  const other = await adapted(base, loraConfig({ r: 2, loraAlpha: 3, targetModules: ["v_proj"] }));
  const swapped = swapAdapter(model, other, { adapterName: "style" });
  assertEquals([...swapped.adapters.keys()], ["default", "style"]);
  assertEquals(swapped.active, ["style", "default"]);
  assert(swapped.adapters.get("default") === model.adapters.get("default"));

  const joined = await loadAdapter(setAdapter(model, "default"), partsOf(other), {
    adapterName: "alone",
  });
  await assertSwaps(model, swapped, setAdapter(joined, ["alone", "default"]));
  // A name of the other model decides where it has several.
  const chosen = swapAdapter(model, joined, { adapterName: "style", otherName: "alone" });
  assertEquals(await logitsOf(chosen), await logitsOf(swapped));
  // The given model is as it was.
  assert(await apart(model, swapped) > 1e-3);
});

testOnDevices("padding to a larger rank changes no output", async (device) => {
  const base = await goldenBase("llama", device);
  const tied = await goldenBase("llama_tied", device);
  const cases: [ModelGraph, Record<string, unknown>][] = [
    [base, { r: 3, lora_alpha: 5, target_modules: "all-linear" }],
    [base, {
      r: 2,
      use_rslora: true,
      target_modules: ["q_proj", "v_proj", "embed_tokens"],
      rank_pattern: { v_proj: 5 },
      alpha_pattern: { q_proj: 1.5 },
    }],
    [base, { r: 3, use_dora: true, init_lora_weights: "pissa", target_modules: ["up_proj"] }],
    [base, { r: 4, init_lora_weights: "olora", lora_alpha: 3, target_modules: ["up_proj"] }],
    [base, { r: 4, init_lora_weights: "orthogonal", target_modules: ["up_proj"] }],
    [tied, { r: 2, target_modules: ["embed_tokens"], ensure_weight_tying: true }],
  ];
  for (const [on, fields] of cases) {
    const model = await adapted(on, peftLora(fields), 6);
    const padded = prepareModelForCompiledHotswap(model, { targetRank: 9 });
    assert(await apart(padded, model) < 5e-6, `${await apart(padded, model)}`);
    assert(await apart(model, on) > 1e-3);
    const config = await assertSaves(padded, on);
    assertEquals([config.r, config.rankPattern, config.alphaPattern], [9, {}, {}]);
    assertEquals(config.useRslora, fields.use_rslora === true);
    assert(typeof config.initLoraWeights === "boolean");
    for (const { leaves } of partsOfKind(padded.adapters.get("default")!, "site")) {
      assert(Object.values(leaves).every(({ kind }) => kind === "trained"));
      const factor = leaves.lora_A ?? leaves.lora_embedding_A;
      if (factor) assertEquals(factor.shape[0], 9);
    }
    // Now a larger rank than it had fits in.
    const larger = await adapted(on, peftLora({ ...fields, init_lora_weights: true, r: 8 }), 7);
    await assertSwaps(padded, swapAdapter(padded, larger), larger);
  }
  const scaled = await adapted(base, loraConfig({ r: 3, loraAlpha: 5 }));
  const padded = prepareModelForCompiledHotswap(scaled, { targetRank: 6 });
  assertEquals((padded.adapters.get("default")!.config as LoraConfig).loraAlpha, 10);
  assert(prepareModelForCompiledHotswap(scaled) === scaled);
});

testOnDevices("what cannot be swapped says so", async (device) => {
  const base = await goldenBase("llama", device);
  const resident = getPeftModel(base, loraConfig({ r: 4, targetModules: ["q_proj", "v_proj"] }));
  const swap = (config: Partial<LoraConfig>) =>
    swapAdapter(resident, getPeftModel(base, loraConfig({ targetModules: ["q_proj"], ...config })));
  const code = (fn: () => unknown, type: new (...args: never[]) => Error, text: string) =>
    (assertThrows(fn, type as never, text) as ValueError).code;

  assertEquals(
    code(() => swap({ targetModules: ["q_proj", "k_proj"] }), UnsupportedError, "self_attn.k_proj"),
    "HOTSWAP_TARGETS",
  );
  assertEquals(code(() => swap({ r: 5 }), ValueError, "targetRank: 5"), "HOTSWAP_RANK");
  assertEquals(
    code(() => swap({ r: 3, initLoraWeights: "pissa" }), ValueError, "targetRank: 6"),
    "HOTSWAP_RANK",
  );
  assertEquals(code(() => swap({ useDora: true }), UnsupportedError, "useDora"), "HOTSWAP_CONFIG");
  assertEquals(
    code(() => swap({ loraBias: true }), UnsupportedError, "loraBias"),
    "HOTSWAP_CONFIG",
  );
  const saving = () => swap({ modulesToSave: ["lm_head"] });
  assertEquals(code(saving, UnsupportedError, "lm_head.weight"), "HOTSWAP_TARGETS");
  const rows = () => swap({ trainableTokenIndices: [3] });
  assertEquals(code(rows, UnsupportedError, "rows of model.embed_tokens"), "HOTSWAP_TARGETS");
  const pissa = getPeftModel(base, loraConfig({ r: 2, initLoraWeights: "pissa" }));
  const plain = getPeftModel(base, loraConfig({ r: 2 }));
  assertThrows(() => swapAdapter(pissa, plain), UnsupportedError, "twice its rank");
  swapAdapter(prepareModelForCompiledHotswap(pissa, { targetRank: 4 }), plain);

  const config = ia3Config({ targetModules: ["k_proj"], feedforwardModules: [] });
  const other = getPeftModel(base, config, { registry });
  assertThrows(() => swapAdapter(resident, other), UnsupportedError, "LORA and IA3");
  const inward = { ...config, feedforwardModules: ["k_proj"] };
  const forwardToo = getPeftModel(base, inward, { registry });
  assertThrows(() => swapAdapter(other, forwardToo), UnsupportedError, "feedforwardModules");

  const merged = mergeAdapter(resident);
  assertThrows(() => swapAdapter(merged, plain), ValueError, "unmergeAdapter");
  await assertRejects(() => hotswapAdapter(merged, partsOf(plain)), ValueError, "unmergeAdapter");
  const missing = await assertRejects(
    () => hotswapAdapter(resident, partsOf(plain), { adapterName: "style" }),
    ValueError,
  );
  assertEquals(missing.code, "ADAPTER_UNKNOWN");
  assertThrows(() => swapAdapter(resident, plain, { otherName: "nobody" }), ValueError, "nobody");

  const narrow = await goldenBase("gpt2", device);
  const wide = getPeftModel(narrow, loraConfig({ targetModules: ["c_attn"] }));
  const path = "transformer.h.0.attn.c_attn";
  const adapter = wide.adapters.get("default")!;
  const { lora_A, lora_B } = leavesAt(adapter, path)!;
  const bent = { ...lora_A, shape: [lora_A.shape[0], lora_A.shape[1] + 1] };
  const part = withContents(adapter.parts.get(path)!, { lora_A: bent, lora_B });
  const parts = new Map(adapter.parts).set(path, part);
  const foreign = { ...wide, adapters: new Map([["default", { ...adapter, parts }]]) };
  assertThrows(() => swapAdapter(wide, foreign), ShapeError, "different bases");

  const pad = (targetRank: number) => prepareModelForCompiledHotswap(resident, { targetRank });
  assertEquals(code(() => pad(3), ValueError, "rank 4"), "HOTSWAP_RANK");
  assertThrows(() => pad(0), ValueError, "targetRank");
  const nothing = () => prepareModelForCompiledHotswap(other, { targetRank: 8 });
  assertEquals(code(nothing, ValueError, "No adapter layers found"), "HOTSWAP_NOTHING");
});
