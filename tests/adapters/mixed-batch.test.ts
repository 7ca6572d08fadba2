import { assert, assertEquals, assertRejects } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import { disableAdapters, setAdapter } from "../../lib/adapters/select.ts";
import type { Device } from "../../lib/device/device.ts";
import { UnsupportedError, ValueError } from "../../lib/errors.ts";
import { generate } from "../../lib/generation/generate.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import type { PeftConfig } from "../../lib/methods/config.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { testOnDevices } from "../devices.ts";
import { randomized } from "./randomized.ts";
import { golden, goldenBase } from "./bases.ts";

const IDS = [5, 41, 3, 60, 7, 22];

/** Adapters of very different kinds on one base, none of which is a no-op. */
async function zoo(device: Device, kind = "llama"): Promise<PeftModel> {
  const targets = kind === "gpt2" ? ["c_attn", "c_proj"] : ["q_proj", "down_proj"];
  const configs: Record<string, PeftConfig> = {
    plain: loraConfig({ r: 3, loraAlpha: 5, targetModules: targets }),
    dora: loraConfig({ r: 2, useDora: true, loraAlpha: 7, targetModules: targets.slice(0, 1) }),
    lookup: loraConfig({
      r: 2,
      targetModules: [kind === "gpt2" ? "wte" : "embed_tokens", targets[1]],
    }),
    head: loraConfig({
      targetModules: targets.slice(1),
      modulesToSave: [kind === "gpt2" ? "ln_f" : "lm_head"],
    }),
    tokens: loraConfig({ targetModules: targets.slice(0, 1), trainableTokenIndices: [41, 7] }),
    biased: loraConfig({ targetModules: targets, bias: "all" }),
  };
  const [[first, config], ...rest] = Object.entries(configs);
  let model = getPeftModel(await goldenBase(kind, device), config, { adapterName: first });
  for (const [name, other] of rest) model = addAdapter(model, name, other);
  return await randomized(model);
}

async function rowsOf(model: PeftModel, adapterNames?: readonly string[]): Promise<Float32Array[]> {
  const inputIds = (adapterNames ?? [0]).map(() => IDS);
  const { logits } = await forward(model, { inputIds, adapterNames });
  const values = await toFloat32(logits);
  const size = values.length / inputIds.length;
  return inputIds.map((_, i) => values.slice(i * size, (i + 1) * size));
}

function apart(a: Float32Array, b: Float32Array): number {
  const largest = Math.max(...b.map(Math.abs));
  return Math.max(...a.map((x, i) => Math.abs(x - b[i]))) / largest;
}

for (const kind of ["llama", "gpt2", "llama_tied"]) {
  testOnDevices(`each row of a mixed batch is as it is alone (${kind})`, async (device) => {
    const model = await zoo(device, kind);
    const names = ["head", "__base__", "dora", "tokens", "plain", "lookup", "biased", "dora"];
    const rows = await rowsOf(model, names);
    for (const [i, name] of names.entries()) {
      const alone = name === "__base__" ? disableAdapters(model) : setAdapter(model, name);
      const [want] = await rowsOf(alone);
      assert(apart(rows[i], want) < 2e-5, `${name}: ${apart(rows[i], want)}`);
      names.forEach((other, j) => {
        if (other !== name) assert(apart(rows[j], want) > 1e-3, `${name} and ${other} differ`);
      });
    }
  });
}

testOnDevices("a mixed batch generates what each row does alone", async (device) => {
  const model = await zoo(device);
  const prompts = [[5, 41, 3], [9, 7, 12, 60], [1], [5, 41, 3]];
  const adapterNames = ["dora", "lookup", "__base__", "tokens"];
  const options = { maxNewTokens: 7, eosTokenId: [] };
  const mixed = await generate(model, prompts, { ...options, adapterNames });
  for (const [i, name] of adapterNames.entries()) {
    const alone = name === "__base__" ? disableAdapters(model) : setAdapter(model, name);
    const { tokenIds } = await generate(alone, prompts[i], options);
    assertEquals(mixed[i].tokenIds, tokenIds, name);
  }
});

testOnDevices("another assignment of the same adapters compiles nothing", async (device) => {
  const model = await zoo(device);
  const compiled: unknown[] = [];
  const counting: PeftModel = {
    ...model,
    base: {
      ...model.base,
      device: {
        ...device,
        compile: (program) => {
          compiled.push(program);
          return device.compile(program);
        },
      },
    },
  };
  await rowsOf(counting, ["plain", "dora"]);
  const [first, second] = await rowsOf(counting, ["dora", "plain"]);
  assertEquals(compiled.length, 1);
  assert(apart(first, second) > 1e-3);
  const none = await rowsOf(disableAdapters(model), ["dora", "plain"]);
  assertEquals(none[0], none[1]);
});

async function assertMixed(folder: string, device: Device): Promise<void> {
  const base = await goldenBase("llama", device);
  let model = await loadAdapter(base, folder, { adapterName: "style", subfolder: "style" });
  model = await loadAdapter(model, folder, { adapterName: "facts", subfolder: "facts" });
  const { tensors } = await openSafetensors(`${folder}/expected.safetensors`);
  const [inputIds, attentionMask] = ["in.input_ids", "in.attention_mask"].map((n) =>
    tensors.get(n)!
  );
  for (
    const [name, adapterNames] of [
      ["mixed.logits", ["style", "facts"]],
      ["mixed_base.logits", ["__base__", "style"]],
    ] as const
  ) {
    const { logits } = await forward(model, { inputIds, attentionMask, adapterNames });
    const mask = await attentionMask.data();
    const seen = (values: Float32Array) =>
      values.filter((_, i) => Number(mask[Math.floor(i * mask.length / values.length)]) === 1);
    const distance = apart(
      seen(await toFloat32(logits)),
      seen(await toFloat32(tensors.get(name)!)),
    );
    assert(distance < 2e-5, `${name}: ${distance}`);
  }
}

testOnDevices("mixed batches of the real PEFT", async (device) => {
  for (const name of ["lora/two_adapters", "methods/lora_variants/alora_two"]) {
    await assertMixed(`${golden}${name}`, device);
  }
});

testOnDevices("what mixed batches refuse", async (device) => {
  const model = await zoo(device);
  const inputIds = [IDS, IDS];
  const refuse = async (adapterNames: unknown, code: string, on: PeftModel = model) => {
    const error = await assertRejects(
      () => forward(on, { inputIds, adapterNames: adapterNames as string[] }),
      ValueError,
    );
    assertEquals(error.code, code);
  };
  await refuse(["plain"], "ADAPTER_ROWS");
  await refuse("plain", "ADAPTER_ROWS");
  await refuse(["plain", "plian"], "ADAPTER_UNKNOWN");
  await refuse(["plain", null], "ADAPTER_UNKNOWN");
  await refuse(["plain", "dora"], "ADAPTER_ROWS", {
    ...model,
    merged: { names: ["plain"], base: model.base },
  });
  const onBase = await assertRejects(
    () => forward(model.base, { inputIds, adapterNames: ["plain", "dora"] }),
    ValueError,
  );
  assertEquals(onBase.code, "NOT_PEFT");
  const adapter = model.adapters.get("plain")!;
  const memory = () => ({ length: 1, layer: () => null! });
  const method = { ...adapter.method, pass: { virtualTokens: () => 1, memory } };
  const prefixed = new Map([...model.adapters, ["plain", { ...adapter, method }]]);
  await assertRejects(
    () => forward({ ...model, adapters: prefixed }, { inputIds, adapterNames: ["plain", "dora"] }),
    UnsupportedError,
    "virtual tokens",
  );
});
