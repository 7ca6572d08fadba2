import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { forward } from "../../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import type { AnyModel } from "../../../lib/adapters/peft-model.ts";
import type { AdapterParts } from "../../../lib/adapters/checkpoint/read-adapter.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { setAdapter } from "../../../lib/adapters/select.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import { CheckpointError, FileError, UnsupportedError, ValueError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { openSafetensors } from "../../../lib/io/safetensors.ts";
import { type LoraConfig, loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { defaultMethods } from "../../../lib/methods/mod.ts";
import { fromPeftJson } from "../../../lib/methods/peft-json.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { testDevice, testOnDevices } from "../../devices.ts";
import { inFolder, namesIn } from "../../io/folder.ts";
import { golden, goldenBase } from "../bases.ts";
import { randomized } from "../randomized.ts";
import index from "../../golden/conversion/conversion.json" with { type: "json" };

const IDS = [[3, 1, 4, 15, 9, 26, 5]];
const FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors"];

async function logitsOf(model: AnyModel, inputIds: unknown = IDS): Promise<Float32Array> {
  return await toFloat32((await forward(model, { inputIds: inputIds as number[][] })).logits);
}

/** The largest difference as a share of the largest number. */
function apart(a: ArrayLike<number>, b: ArrayLike<number>): number {
  assertEquals(a.length, b.length);
  const size = Math.max(...Array.from(b, Math.abs));
  return Math.max(...Array.from(a, (x, i) => Math.abs(x - b[i]))) / size;
}

/** A config with lists that are sets in Python in order. */
function ordered(json: Readonly<Record<string, unknown>>): unknown {
  return { ...json, target_modules: [...json.target_modules as string[]].sort() };
}

for (const { name, kind } of index.plain) {
  testOnDevices(`golden ${name}: as PEFT saves it`, (device) =>
    inFolder(async (folder) => {
      const root = join(golden, "conversion", name);
      const base = await goldenBase(kind, device);
      const trained = await loadAdapter(base, join(root, "trained"));
      const { tensors: expected } = await openSafetensors(join(root, "expected.safetensors"));
      const [ids, logits] = [expected.get("input_ids"), await toFloat32(expected.get("logits")!)];
      assert(apart(await logitsOf(trained, ids), logits) < 1e-4);

      const initial = join(root, "initial");
      const before = await Deno.readTextFile(join(initial, "adapter_config.json"));
      const { config } = trained.adapters.get("default")!;
      const parts: AdapterParts = {
        config,
        tensors: (await openSafetensors(join(initial, "adapter_model.safetensors"))).tensors,
      };
      for (const given of [initial, new URL(`file://${initial}`), parts, true] as const) {
        await savePretrained(trained, folder, { pathInitialModelForWeightConversion: given });
        assertEquals(namesIn(folder), FILES);
        const json = await readJsonFile(join(folder, FILES[1]));
        const wanted = await readJsonFile(join(root, "plain", FILES[1]));
        assertEquals(ordered(json), ordered(wanted));
        const { tensors } = await openSafetensors(join(folder, FILES[2]));
        const { tensors: theirs } = await openSafetensors(join(root, "plain", FILES[2]));
        assertEquals([...tensors.keys()], [...theirs.keys()]);
        for (const [key, tensor] of theirs) {
          assertEquals(tensors.get(key)!.shape, tensor.shape, key);
          // What the adapter itself keeps may have other signs.
          if (given !== true) assertEquals(await tensors.get(key)!.data(), await tensor.data());
        }
        assert(apart(await logitsOf(await loadAdapter(base, folder), ids), logits) < 1e-4);
      }
      assertEquals(await Deno.readTextFile(join(initial, "adapter_config.json")), before);
      assertEquals(await logitsOf(trained, ids), await logitsOf(trained, ids));
    }));
}

testOnDevices(
  "a plain LoRA does what the adapter did, with all that it holds",
  (device) =>
    inFolder(async (folder) => {
      const pissa = { initLoraWeights: "pissa", r: 3, loraAlpha: 7 } as const;
      const cases: [string, Partial<LoraConfig>][] = [
        ["llama", { ...pissa, useDora: true }],
        ["llama", { ...pissa, r: 40, targetModules: ["q_proj", "v_proj", "down_proj"] }],
        ["llama", { ...pissa, r: 20, useRslora: true, targetModules: ["v_proj", "up_proj"] }],
        ["llama", {
          ...pissa,
          rankPattern: { "layers.0.self_attn.v_proj": 30, v_proj: 2 },
          alphaPattern: { v_proj: 5 },
          modulesToSave: ["lm_head"],
        }],
        ["gpt2", {
          initLoraWeights: "olora",
          r: 2,
          targetModules: ["wte", "c_attn"],
          trainableTokenIndices: { wpe: [2] },
        }],
        ["qwen2", { ...pissa, bias: "lora_only" }],
      ];
      for (const [kind, fields] of cases) {
        const base = await goldenBase(kind, device);
        const model = await randomized(
          getPeftModel(base, loraConfig({ taskType: "CAUSAL_LM", ...fields })),
        );
        await savePretrained(model, folder, { pathInitialModelForWeightConversion: true });
        const again = await loadAdapter(base, folder);
        const { config } = again.adapters.get("default")!;
        const { r, initLoraWeights, useDora } = config as LoraConfig;
        assertEquals([r, initLoraWeights, useDora], [2 * fields.r!, true, fields.useDora ?? false]);
        const [want, got, none] = [
          await logitsOf(model),
          await logitsOf(again),
          await logitsOf(base),
        ];
        assert(apart(none, want) > 1e-2, "the adapter changes something");
        assert(apart(got, want) < 1e-4, `${JSON.stringify(fields)}: ${apart(got, want)}`);
      }
    }),
);

Deno.test("several adapters are converted, each by its own beginning", () =>
  inFolder(async (folder) => {
    const base = await goldenBase("llama", await testDevice("cpu"));
    const config = (r: number) => loraConfig({ r, initLoraWeights: "pissa" });
    const start = addAdapter(getPeftModel(base, config(2)), "style", config(3));
    const model = await randomized(start);
    await savePretrained(model, folder, { pathInitialModelForWeightConversion: start });
    const one = await loadAdapter(base, folder);
    const both = await loadAdapter(one, folder, { adapterName: "style", subfolder: "style" });
    for (const name of ["default", "style"]) {
      const [want, got] = [setAdapter(model, name), setAdapter(both, name)];
      assert(apart(await logitsOf(got), await logitsOf(want)) < 1e-5);
    }
    // Of the parts of the base that both took over, neither is missed any more: they add up.
    const shapes = [...getAdapterStateDict(both, "style").values()].map(({ shape }) => shape);
    assertEquals(shapes[0], [6, 32]);
    // The saved model is as it was.
    assertEquals(model.adapters.get("style")!.config, start.adapters.get("style")!.config);
  }));

Deno.test("the adapter on what a decomposition left becomes one on the whole base", () =>
  inFolder(async (folder) => {
    // PEFT's way: the base without the part is a model of its own, and the adapter says "true".
    const base = await goldenBase("llama", await testDevice("cpu"));
    const start = getPeftModel(base, loraConfig({ r: 2, initLoraWeights: "pissa" }));
    const trained = await randomized(start);
    const config = loraConfig({ r: 2 });
    const tensors = getAdapterStateDict(trained);
    const plain = await loadAdapter(base, { config, tensors });
    await savePretrained(plain, folder, { pathInitialModelForWeightConversion: start });
    const again = await loadAdapter(base, folder);
    assert(apart(await logitsOf(again), await logitsOf(trained)) < 1e-5);
  }));

Deno.test("what cannot become a plain LoRA is refused, and nothing is written", () =>
  inFolder(async (folder) => {
    const out = join(folder, "out");
    for (const { name, kind, config, rank, error } of index.refused) {
      if (rank !== null || !defaultMethods.has(config.peft_type)) continue;
      assertEquals(error!.type, "ValueError");
      const asked = fromPeftJson({ task_type: "CAUSAL_LM", ...config });
      const model = getPeftModel(await goldenBase(kind), asked);
      const save = () => savePretrained(model, out, { pathInitialModelForWeightConversion: true });
      const found = await assertRejects(
        save,
        config.peft_type === "LORA" ? ValueError : UnsupportedError,
      );
      assertEquals(namesIn(folder), [], `${name}: ${found.message}`);
    }
    const base = await goldenBase("llama");
    const pissa = getPeftModel(base, loraConfig({ r: 2, initLoraWeights: "pissa" }));
    const other = getPeftModel(base, loraConfig({ r: 3, initLoraWeights: "pissa" }));
    // deno-lint-ignore no-explicit-any -- wrong types are the point
    const save = (initial: any, model = pissa) =>
      savePretrained(model, out, { pathInitialModelForWeightConversion: initial });
    const plain = getPeftModel(base, loraConfig({ r: 2 }));
    const gaussian = getPeftModel(base, loraConfig({ r: 2, initLoraWeights: "gaussian" }));
    const fewer = getPeftModel(base, loraConfig({ r: 2, targetModules: ["q_proj"] }));
    const tied = getPeftModel(
      await goldenBase("llama_tied"),
      loraConfig({
        initLoraWeights: "pissa",
        targetModules: ["embed_tokens"],
        ensureWeightTying: true,
      }),
    );
    const cases: [string, () => Promise<void>, abstract new (...args: never[]) => Error][] = [
      ["CONVERT_INIT", () => save(true, plain), ValueError],
      ["CONVERT_INIT", () => save(gaussian, gaussian), ValueError],
      ["CONVERT_INITIAL", () => save(other), CheckpointError],
      ["CONVERT_INITIAL", () => save(fewer), CheckpointError],
      ["CONVERT_INITIAL", () => save(null), ValueError],
      ["CONVERT_INITIAL", () => save(3), ValueError],
      ["CONVERT_INITIAL", () => save({ tensors: {} }), ValueError],
      ["CONVERT_INITIAL", () => save({ config: {}, tensors: new Map() }), CheckpointError],
      ["CONVERT_TIED", () => save(true, tied), UnsupportedError],
      ["FILE_NOT_FOUND", () => save(join(folder, "nowhere")), FileError],
      ["PATH", () => save(""), ValueError],
    ];
    for (const [code, misuse, type] of cases) {
      const error = await assertRejects(misuse, type as never);
      assertEquals((error as unknown as { code: string }).code, code);
      assertEquals(namesIn(folder), []);
    }
    const error = await assertRejects(() => save(other), CheckpointError);
    assertStringIncludes(error.message, "[3,32]");
    // deno-lint-ignore no-explicit-any -- a misspelt option
    const misspelt = { pathInitialModelForWeigthConversion: true } as any;
    await assertRejects(() => savePretrained(pissa, out, misspelt), ValueError, "nearest");
    assertEquals(namesIn(folder), []);
  }));
