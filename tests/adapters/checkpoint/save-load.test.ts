import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { hashBase } from "../../../lib/adapters/hash-base.ts";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import { trainableLeaves, withLeaves } from "../../../lib/adapters/leaves.ts";
import { type AdapterLoadReport, loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { mergeAdapter } from "../../../lib/adapters/merge/merge.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import { CheckpointError, ConfigError, FileError, ValueError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { openSafetensors, writeSafetensors } from "../../../lib/io/safetensors.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { createTorchRandom } from "../../../lib/methods/torch-random.ts";
import { castTensor, toFloat32 } from "../../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { inFolder, namesIn } from "../../io/folder.ts";
import { changed, golden, goldenBase, peftLora } from "../bases.ts";
import cases from "../../golden/cases.json" with { type: "json" };

async function randomized(model: PeftModel, seed = 5): Promise<PeftModel> {
  const random = createTorchRandom(seed);
  const leaves = new Map<string, Tensor>();
  for (const [name, leaf] of trainableLeaves(model)) {
    const values = random.normal((await toFloat32(leaf)).length);
    leaves.set(name, tensor(values, { shape: leaf.shape }));
  }
  return withLeaves(model, leaves);
}

async function assertSameTensors(a: PeftModel, b: PeftModel, name = "default"): Promise<void> {
  const [one, two] = [a, b].map((model) => getAdapterStateDict(model, name));
  assertEquals([...two.keys()].sort(), [...one.keys()].sort());
  for (const [key, t] of one) assertEquals(await toFloat32(two.get(key)!), await toFloat32(t), key);
}

Deno.test("configs are PEFT's, field by field", async () => {
  const sets = ["target_modules", "exclude_modules"];
  for (const { name, kind, adapters } of cases.lora) {
    const record = await readJsonFile(`${golden}lora/${name}/case.json`);
    // A converted adapter is not what was asked for; and where PEFT cannot read its own file, ours differs so that it can be read.
    if (record.converted || record.reload_error) continue;
    const asked = adapters.length ? record.adapters : { default: record.config };
    await inFolder(async (folder) => {
      for (const [adapterName, config] of Object.entries(asked as Record<string, never>)) {
        const base = { ...await goldenBase(kind), source: `base/${kind}` };
        const model = getPeftModel(base, peftLora(config), { adapterName });
        await savePretrained(model, folder);
        const at = adapters.length ? adapterName : "";
        const written = await readJsonFile(join(folder, at, "adapter_config.json"));
        const wanted = await readJsonFile(join(golden, "lora", name, at, "adapter_config.json"));
        const plain = (json: Record<string, unknown>) =>
          Object.fromEntries(
            Object.entries(json).map(([key, value]) => [
              key,
              sets.includes(key) && Array.isArray(value) ? [...value].sort() : value,
            ]),
          );
        assertEquals(plain(written), plain(wanted), `${name} ${adapterName}`);
      }
    });
  }
});

Deno.test("what is saved is loaded: every golden case", async () => {
  for (const { name, kind, adapters } of cases.lora) {
    if (adapters.length) continue;
    const record = await readJsonFile(`${golden}lora/${name}/case.json`);
    const base = await goldenBase(kind);
    const model = await randomized(getPeftModel(base, peftLora(record.config as never)));
    await inFolder(async (folder) => {
      await savePretrained(model, folder);
      assertEquals(namesIn(folder), [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
      ]);
      let report: AdapterLoadReport | undefined;
      const again = await loadAdapter(base, folder, { onReport: (r) => report = r });
      await assertSameTensors(model, again);
      assertEquals(report!.base, "same");
      assertEquals(trainableLeaves(again).size, 0);
      // Saved once more, the bytes are the same.
      const bytes = await Deno.readFile(join(folder, "adapter_model.safetensors"));
      const config = await Deno.readTextFile(join(folder, "adapter_config.json"));
      await savePretrained(again, folder);
      assertEquals(await Deno.readFile(join(folder, "adapter_model.safetensors")), bytes);
      assertEquals(await Deno.readTextFile(join(folder, "adapter_config.json")), config, name);
    });
  }
});

Deno.test("several adapters go into subfolders", async () => {
  const base = await goldenBase("llama");
  const one = getPeftModel(base, loraConfig({ r: 2 }));
  const model = await randomized(
    addAdapter(one, "style", loraConfig({ targetModules: "all-linear" })),
  );
  await inFolder(async (folder) => {
    await savePretrained(model, folder);
    assertEquals(namesIn(folder), [
      "README.md",
      "adapter_config.json",
      "adapter_model.safetensors",
      "style",
    ]);
    assertEquals(namesIn(join(folder, "style")), [
      "adapter_config.json",
      "adapter_model.safetensors",
    ]);
    const first = await loadAdapter(base, folder);
    const both = await loadAdapter(first, folder, { adapterName: "style", subfolder: "style" });
    assertEquals([[...both.adapters.keys()], both.active], [["default", "style"], ["default"]]);
    await assertSameTensors(model, both, "style");
    await assertRejects(() => loadAdapter(both, folder), ValueError, "default");
    await assertRejects(
      () => savePretrained(model, folder, { selectedAdapters: ["stile"] }),
      ValueError,
      "style",
    );
    const other = join(folder, "deep", "er");
    await savePretrained(model, other, { selectedAdapters: ["style", "style"] });
    assertEquals(namesIn(other), ["README.md", "style"]);
  });
});

Deno.test("a head that gpt2 ties to its embedding is tied again on loading", async () => {
  const base = await goldenBase("gpt2");
  const config = loraConfig({ r: 2, targetModules: ["lm_head", "c_fc"], ensureWeightTying: true });
  const model = await randomized(getPeftModel(base, config));
  await inFolder(async (folder) => {
    await savePretrained(model, folder);
    await assertSameTensors(model, await loadAdapter(base, folder));
  });
});

Deno.test("autoMapping is the base's class where no task says what a model is for", async () => {
  const autoMapping = { base_model_class: "Other", parent_library: "elsewhere" };
  const base = await goldenBase("llama");
  await inFolder(async (folder) => {
    for (const taskType of ["CAUSAL_LM", null] as const) {
      const config = loraConfig({ r: 2, taskType, autoMapping });
      await savePretrained(getPeftModel(base, config), folder);
      const { auto_mapping: written } = await readJsonFile(join(folder, "adapter_config.json"));
      assertEquals(
        written,
        taskType ? autoMapping : {
          base_model_class: "LlamaForCausalLM",
          parent_library: "transformers.models.llama.modeling_llama",
        },
      );
    }
  });
});

Deno.test("the model card has what the hub looks for and keeps what was there", async () => {
  const base = { ...await goldenBase("llama"), source: "someone/tiny: 1" };
  const model = getPeftModel(base, loraConfig({ taskType: "CAUSAL_LM" }));
  await inFolder(async (folder) => {
    await savePretrained(model, folder);
    const card = await Deno.readTextFile(join(folder, "README.md"));
    assert(card.startsWith(
      '---\nbase_model: "someone/tiny: 1"\nlibrary_name: peft\npipeline_tag: text-generation\n' +
        'tags:\n- "base_model:adapter:someone/tiny: 1"\n- lora\n- transformers\n---\n',
    ));
    assert(card.endsWith("### Framework versions\n\n- PEFT 0.21.0"));
    const own =
      "---\nlicense: mit\ntags:\n- old\npipeline_tag: text2text-generation\n---\n\n# Mine\n";
    await Deno.writeTextFile(join(folder, "README.md"), own);
    await savePretrained(model, folder);
    const kept = await Deno.readTextFile(join(folder, "README.md"));
    for (
      const text of [
        "license: mit\n",
        "pipeline_tag: text2text-generation\n",
        "# Mine",
        "- lora",
        "- old",
      ]
    ) {
      assertStringIncludes(kept, text);
    }
    await savePretrained(model, folder);
    assertEquals(await Deno.readTextFile(join(folder, "README.md")), kept);
  });
});

Deno.test("a save that fails changes nothing", async () => {
  const base = await goldenBase("llama");
  const model = await randomized(getPeftModel(base, loraConfig()));
  const [name, leaf] = [...trainableLeaves(model)].at(-1)!;
  const broken = withLeaves(
    model,
    new Map([[name, { ...leaf, data: () => Promise.reject(new Error("unplugged")) }]]),
  );
  await inFolder(async (folder) => {
    const fresh = join(folder, "fresh", "out");
    await assertRejects(() => savePretrained(broken, fresh), Error, "unplugged");
    assertEquals(namesIn(folder), []);

    const out = join(folder, "out");
    await savePretrained(model, out);
    const contents = () => Promise.all(namesIn(out).map((n) => Deno.readFile(join(out, n))));
    const before = await contents();
    await assertRejects(() => savePretrained(broken, out), Error, "unplugged");
    assertEquals(namesIn(out).length, 3);
    assertEquals(await contents(), before);

    // The last file cannot take its place: those before it are put back.
    await Deno.remove(join(out, "README.md"));
    const weights = await Deno.readFile(join(out, "adapter_model.safetensors"));
    const other = await randomized(model, 6);
    const blocked = join(out, "adapter_config.json");
    const config = await Deno.readTextFile(blocked);
    await Deno.remove(blocked);
    await Deno.mkdir(join(blocked, "inside"), { recursive: true });
    const error = await assertRejects(() => savePretrained(other, out), FileError);
    assertEquals(error.code, "WRITE_FAILED");
    assertEquals(namesIn(out), ["adapter_config.json", "adapter_model.safetensors"]);
    assertEquals(await Deno.readFile(join(out, "adapter_model.safetensors")), weights);
    await Deno.remove(blocked, { recursive: true });
    await Deno.writeTextFile(blocked, config);
    await assertSameTensors(model, await loadAdapter(base, out));

    await assertRejects(() => savePretrained(model, blocked), FileError, "is a file");
  });
});

Deno.test("a loaded adapter does not depend on its file", async () => {
  const base = await goldenBase("llama");
  const model = await randomized(getPeftModel(base, loraConfig()));
  await inFolder(async (folder) => {
    await savePretrained(model, folder);
    const loaded = await loadAdapter(base, folder, { isTrainable: true });
    assertEquals(trainableLeaves(loaded).size, 8);
    await savePretrained(await randomized(model, 7), folder);
    await assertSameTensors(model, loaded);
    await savePretrained(loaded, folder);
    await assertSameTensors(model, await loadAdapter(base, folder));
  });
});

Deno.test("an adapter for another base is refused, and both are named", async () => {
  const llama = { ...await goldenBase("llama"), source: "tiny-llama" };
  const gpt2 = { ...await goldenBase("gpt2"), source: "tiny-gpt2" };
  const qwen = { ...await goldenBase("qwen3"), source: "tiny-qwen" };
  await inFolder(async (folder) => {
    const model = await randomized(getPeftModel(llama, loraConfig()));
    await savePretrained(model, folder, { recordBase: false });
    for (const other of [gpt2, qwen]) {
      const error = await assertRejects(() => loadAdapter(other, folder), CheckpointError);
      assertStringIncludes(error.message, '"tiny-llama"');
      assertStringIncludes(error.message, `"${other.source}"`);
    }
    // Of the same shape, only the digest can tell.
    const tuned = await changed(llama, "model.layers.1.mlp.up_proj.weight");
    await loadAdapter(tuned, folder);
    await savePretrained(model, folder);
    const error = await assertRejects(() => loadAdapter(tuned, folder), CheckpointError);
    assertEquals(error.code, "OTHER_BASE");
    const reports: AdapterLoadReport[] = [];
    const onReport = (report: AdapterLoadReport) => void reports.push(report);
    await loadAdapter(tuned, folder, { allowOtherBase: true, onReport });
    await loadAdapter(llama, folder, { onReport });
    // The same weights in another number type are neither the same nor others.
    const parameters = new Map([...llama.parameters].map(([k, t]) => [k, castTensor(t, "f16")]));
    await loadAdapter({ ...llama, parameters }, folder, { onReport });
    assertEquals(reports.map(({ base }) => base), ["other", "same", "unknown"]);
  });
});

Deno.test("damaged and foreign files give one clear error", async () => {
  const base = await goldenBase("llama");
  const model = await randomized(getPeftModel(base, loraConfig()));
  await inFolder(async (folder) => {
    const weights = join(folder, "adapter_model.safetensors");
    const config = join(folder, "adapter_config.json");
    await savePretrained(model, folder);
    const [bytes, json] = [await Deno.readFile(weights), await Deno.readTextFile(config)];

    for (const length of [0, 7, 100, bytes.length - 1]) {
      await Deno.writeFile(weights, bytes.subarray(0, length));
      await assertRejects(() => loadAdapter(base, folder), FileError);
    }
    await Deno.remove(weights);
    const missing = await assertRejects(() => loadAdapter(base, folder), FileError);
    assertEquals(missing.code, "FILE_NOT_FOUND");
    await Deno.writeTextFile(join(folder, "adapter_model.bin"), "pickle");
    const pickle = await assertRejects(() => loadAdapter(base, folder), FileError);
    assertEquals(pickle.code, "ADAPTER_PICKLE");
    await Deno.writeFile(weights, bytes);

    const withConfig = async (text: string) => {
      await Deno.writeTextFile(config, text);
      return await loadAdapter(base, folder);
    };
    const unknown = json.replace('"r": 8', '"r": 8,\n  "rnak": 4');
    const error = await assertRejects(() => withConfig(unknown), ConfigError);
    assertStringIncludes(error.message, "rnak");
    await assertRejects(() => withConfig(json.replace('"r": 8', '"r": "eight"')), ConfigError);
    await assertRejects(() => withConfig(json.slice(0, 50)), FileError);
    await assertRejects(
      () => withConfig(json.replace('"r": 8', '"r": 4')),
      CheckpointError,
      "shape",
    );
    await withConfig(json);
    await assertRejects(() => loadAdapter(base, join(folder, "no where")), FileError);
    await assertRejects(() => loadAdapter(base, weights), FileError, "folder");
  });
});

Deno.test("an adapter can be loaded from memory", async () => {
  const base = await goldenBase("llama");
  const model = await randomized(getPeftModel(base, loraConfig({ r: 5 })));
  const { config } = model.adapters.get("default")!;
  const tensors = getAdapterStateDict(model);
  await assertSameTensors(model, await loadAdapter(base, { config, tensors }));
  await assertSameTensors(
    model,
    await loadAdapter(base, { config: { peft_type: "LORA", r: 5 }, tensors }),
  );
});

Deno.test("the digest of a base tells weights apart", async () => {
  const llama = await goldenBase("llama");
  assertEquals(await hashBase(llama), await hashBase(await goldenBase("llama")));
  assertEquals(await hashBase(llama), await hashBase(await goldenBase("llama_sharded")));
  for (const name of ["model.norm.weight", "model.embed_tokens.weight"]) {
    assert(await hashBase(llama) !== await hashBase(await changed(llama, name)));
  }
  assert((await hashBase(await goldenBase("llama_bf16"))).startsWith("bf16:"));
});

Deno.test("the digest of a model with adapters is that of its base", async () => {
  const base = await goldenBase("llama");
  const model = getPeftModel(base, loraConfig({ modulesToSave: ["lm_head"] }));
  assertEquals(await hashBase(model), await hashBase(base));
  assertEquals(await hashBase(mergeAdapter(model)), await hashBase(base));
});

Deno.test("files of other writers are read too", async () => {
  const base = await goldenBase("llama");
  const model = await randomized(getPeftModel(base, loraConfig()));
  await inFolder(async (folder) => {
    await savePretrained(model, folder);
    const { tensors } = await openSafetensors(join(folder, "adapter_model.safetensors"));
    const half = new Map([...tensors].map(([key, t]) => [key, castTensor(t, "f16")]));
    await writeSafetensors(join(folder, "copy"), half);
    await Deno.rename(join(folder, "copy"), join(folder, "adapter_model.safetensors"));
    let report: AdapterLoadReport | undefined;
    const loaded = await loadAdapter(base, folder, { onReport: (r) => report = r });
    assertEquals([report!.base, report!.dtypeCast.length], ["unknown", 8]);
    for (const t of getAdapterStateDict(loaded).values()) assertEquals(t.dtype, "f32");
  });
});
