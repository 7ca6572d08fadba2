import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { type AdapterLoadReport, loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import { transposed } from "../../../lib/adapters/parts.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import { ConfigError, FileError, UnsupportedError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { openSafetensors, writeSafetensors } from "../../../lib/io/safetensors.ts";
import { fromPeftJson } from "../../../lib/methods/peft-json.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { tensor } from "../../../lib/tensor/tensor.ts";
import { codeOf, inFolder } from "../../io/folder.ts";
import { hubServer } from "../../io/hub-server.ts";
import { golden, goldenBase } from "../bases.ts";

const folderOf = (name: string) => join(golden, "lora", name);
const weightsOf = async (folder: string) =>
  (await openSafetensors(join(folder, "adapter_model.safetensors"))).tensors;
const write = async (folder: string, name: string, contents: unknown) =>
  await Deno.writeTextFile(join(folder, name), JSON.stringify(contents));

async function assertSame(found: PeftModel, wanted: PeftModel): Promise<void> {
  const [a, b] = [found, wanted].map((model) => getAdapterStateDict(model));
  assertEquals([...a.keys()], [...b.keys()]);
  for (const [key, value] of a) {
    assertEquals(await toFloat32(value), await toFloat32(b.get(key)!), key);
  }
}

Deno.test("keys that other programs write otherwise are read", async () => {
  for (const name of ["basic", "dora", "lora_bias_qwen2", "embedding", "save_head"]) {
    const folder = folderOf(name), config = await readJsonFile(join(folder, "adapter_config.json"));
    const base = await goldenBase(name === "lora_bias_qwen2" ? "qwen2" : "llama");
    const wanted = await loadAdapter(base, folder), plain = await weightsOf(folder);
    const asTorch = (key: string) =>
      key.includes("lora_")
        ? key.replace(/(lora_(?:[AB]|embedding_[AB]|magnitude_vector))(?=\.|$)/, "$1.default")
          .replace(/vector.default$/, "$&.weight")
        : key.replace(/\.weight$/, ".modules_to_save.default.weight");
    for (
      const rename of [
        asTorch,
        (key: string) => key.replace("base_model.model.", ""),
        (key: string) => `module.${asTorch(key)}`,
        (key: string) => `_orig_mod.${key.replace("layers.", "layers._fsdp_wrapped_module.")}`,
      ]
    ) {
      const tensors = new Map([...plain].map(([key, value]) => [rename(key), value]));
      let report: AdapterLoadReport | undefined;
      const onReport = (given: AdapterLoadReport) => report = given;
      await assertSame(await loadAdapter(base, { config, tensors }, { onReport }), wanted);
      const moved = [...plain.keys()].map((to) => ({ from: rename(to), to }));
      assertEquals(report!.renamed, moved.filter(({ from, to }) => from !== to));
    }
    // What is there twice, or of another adapter, is not taken for it.
    const [[key, value]] = plain;
    const twice = new Map([...plain, [asTorch(key), value]]);
    await assertRejects(() => loadAdapter(base, { config, tensors: twice }), Error, "unexpected");
  }
});

Deno.test("fields of later releases are left out where they are off", async () => {
  const json = { peft_type: "LORA", r: 3, future_option: null, use_future: false };
  assertEquals(fromPeftJson(json), fromPeftJson({ peft_type: "LORA", r: 3 }));
  const folder = folderOf("basic");
  const config = { ...await readJsonFile(join(folder, "adapter_config.json")), use_future: false };
  let report: AdapterLoadReport | undefined;
  const parts = { config, tensors: await weightsOf(folder) };
  await loadAdapter(await goldenBase("llama"), parts, { onReport: (given) => report = given });
  assertEquals(report!.ignoredFields, ["use_future"]);
  for (const value of [true, 0, "", []]) {
    const on = { ...json, use_future: value };
    assertThrows(() => fromPeftJson(on), ConfigError, '"use_future"');
  }
});

Deno.test("an adapter of mlx-lm is converted", () =>
  inFolder(async (folder) => {
    const base = await goldenBase("llama");
    for (const [name, type] of [["basic", "lora"], ["dora", "dora"]]) {
      const config = await readJsonFile(join(folderOf(name), "adapter_config.json"));
      const wanted = await loadAdapter(base, folderOf(name));
      const leaves = { lora_A: "lora_a", lora_B: "lora_b", lora_magnitude_vector: "m" };
      const tensors = new Map([...await weightsOf(folderOf(name))].map(([key, value]) => [
        key.replace("base_model.model.", "").replace(
          /(lora_[ABm]\w*)(\.weight)?$/,
          (_, leaf: keyof typeof leaves) => leaves[leaf],
        ),
        value.shape.length === 2 ? transposed(value) : value,
      ]));
      const scale = (config.lora_alpha as number) / (config.r as number);
      const mlx = {
        fine_tune_type: type,
        model: "mlx-community/some model",
        num_layers: 2,
        lora_parameters: { rank: config.r, scale, dropout: 0.1, keys: ["self_attn.q_proj"] },
      };
      await write(folder, "adapter_config.json", mlx);
      const weights = join(folder, "adapters.safetensors");
      await writeSafetensors(weights, tensors);
      let report: AdapterLoadReport | undefined;
      const model = await loadAdapter(base, folder, { onReport: (given) => report = given });
      await assertSame(model, wanted);
      assertEquals(report!.renamed.map(({ from }) => from), [...tensors.keys()]);
      const [found, other] = [model, wanted].map(({ adapters }) => adapters.get("default")!.config);
      const fields = ["r", "loraAlpha", "useDora"] as const;
      for (const field of fields) {
        assertEquals(found[field as keyof typeof found], other[field as keyof typeof other], field);
      }
      // What is no adapter, or not as it should be, is refused with what to do.
      await write(folder, "adapter_config.json", { ...mlx, fine_tune_type: "full" });
      const fuse = "mlx_lm.fuse --dequantize --model 'mlx-community/some model' --adapter-path /";
      await assertRejects(() => loadAdapter(base, folder), UnsupportedError, fuse);
      await write(folder, "adapter_config.json", { ...mlx, lora_parameters: { rank: 8 } });
      await assertRejects(() => loadAdapter(base, folder), FileError, "scale");
      await write(folder, "adapter_config.json", mlx);
      const cases: readonly [string, readonly number[]][] = [
        ["x.experts.lora_a", [2, 2, 2]],
        ["model.embed_tokens.lora_a", [4, 2]],
        ["model.norm.weight", [8]],
        ["model.layers.0.self_attn.v_proj.lora_a", [4, 2]], // another rank
      ];
      for (const [key, shape] of cases) {
        const odd = tensor(new Float32Array(8), { shape });
        await writeSafetensors(weights, new Map([...tensors, [key, odd]]));
        assertEquals(await codeOf(loadAdapter(base, folder)), "ADAPTER_FOREIGN");
      }
    }
  }));

Deno.test("weights in several files are read, here and from the hub", () =>
  inFolder(async (folder) => {
    const base = await goldenBase("llama"), wanted = await loadAdapter(base, folderOf("basic"));
    const tensors = [...await weightsOf(folderOf("basic"))];
    const map: Record<string, string> = {};
    for (const [i, part] of [tensors.slice(0, 3), tensors.slice(3)].entries()) {
      const file = `adapter_model-0000${i + 1}-of-00002.safetensors`;
      await writeSafetensors(join(folder, file), new Map(part));
      for (const [key] of part) map[key] = file;
    }
    const index = "adapter_model.safetensors.index.json";
    await write(folder, index, { metadata: {}, weight_map: map });
    await Deno.copyFile(
      join(folderOf("basic"), "adapter_config.json"),
      join(folder, "adapter_config.json"),
    );
    await assertSame(await loadAdapter(base, folder), wanted);
    const files: Record<string, Uint8Array> = {};
    for await (const { name } of Deno.readDir(folder)) {
      files[name] = await Deno.readFile(join(folder, name));
    }
    const hub = { cacheDir: join(folder, "cache"), fetch: hubServer(files).fetch };
    await assertSame(await loadAdapter(base, "org/model", hub), wanted);
    await Deno.remove(join(folder, map[tensors[0][0]]));
    assertEquals(await codeOf(loadAdapter(base, folder)), "CHECKPOINT_SHARD");

    // Of a pickle, the error is the command that converts it.
    const config = files["adapter_config.json"];
    const old = hubServer({ "adapter_config.json": config, "adapter_model.bin": "pickle" });
    const pickled = { cacheDir: join(folder, "other"), fetch: old.fetch };
    const { message } = await assertRejects(
      () => loadAdapter(base, "org/model", pickled),
      FileError,
    );
    assert(
      message.includes(
        "hf download org/model --include 'adapter*' --local-dir model && python3 -c",
      ),
      message,
    );
    assert(!old.asked.some((path) => path.includes("download adapter_model.bin")));
  }));
