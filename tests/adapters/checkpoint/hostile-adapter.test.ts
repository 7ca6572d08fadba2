import { assert, assertEquals, assertThrows } from "@std/assert";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { condenseTargets } from "../../../lib/adapters/plan/resolve-config.ts";
import { modulesOf } from "../../../lib/adapters/plan/module-tree.ts";
import { ConfigError } from "../../../lib/errors.ts";
import { fromPeftJson } from "../../../lib/methods/peft-json.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { castTensor } from "../../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { codeOf } from "../../io/folder.ts";
import { goldenBase, peftLora } from "../bases.ts";

Deno.test("adapter weights that are infinite, NaN or whole numbers are refused", async () => {
  const base = await goldenBase("llama");
  const config = loraConfig({ r: 2, targetModules: ["q_proj"] });
  const tensors = getAdapterStateDict(getPeftModel(base, config));
  const [[key, first]] = tensors;
  const size = first.shape[0] * first.shape[1];
  const withValue = (x: number): Tensor =>
    tensor(Float32Array.from({ length: size }, (_, i) => i === 3 ? x : 0.5), {
      shape: first.shape,
    });
  const load = (changed: Tensor, options = {}) =>
    codeOf(loadAdapter(base, { config, tensors: new Map([...tensors, [key, changed]]) }, options));
  assertEquals(await load(withValue(1e30)), "no error");
  for (const strict of [true, false]) {
    for (const x of [NaN, Infinity, -Infinity]) {
      assertEquals(await load(withValue(x), { strict }), "ADAPTER_VALUES");
      assertEquals(await load(castTensor(withValue(x), "bf16"), { strict }), "ADAPTER_VALUES");
    }
    const whole = tensor(new Int32Array(size), { shape: first.shape });
    assertEquals(await load(whole, { strict }), "ADAPTER_VALUES");
  }
  // Those that stay in the file are looked at when they are read.
  const lazy = await loadAdapter(base, {
    config,
    tensors: new Map([...tensors, [key, withValue(NaN)]]),
  }, { lowMemory: true });
  assertEquals(await codeOf(getAdapterStateDict(lazy).get(key)!.data()), "ADAPTER_VALUES");
});

Deno.test("lists of names are held against the model before each name is looked for", async () => {
  const base = await goldenBase("llama"), start = performance.now();
  const names = Array.from({ length: 100_000 }, (_, i) => `name_${i}`);
  const each = (value: unknown) => Object.fromEntries(names.map((name) => [name, value]));
  const fields = [
    { target_modules: names },
    { exclude_modules: names },
    { modules_to_save: names },
    { rank_pattern: each(4) },
    { alpha_pattern: each(4) },
    { layers_to_transform: [0], layers_pattern: names },
    { trainable_token_indices: each([1]) },
  ];
  for (const field of fields) {
    const config = peftLora({ target_modules: ["q_proj"], ...field });
    const error = assertThrows(() => getPeftModel(base, config), ConfigError, "100000 entries");
    assertEquals(error.code, "CONFIG_LENGTH");
  }
  const layers = peftLora({
    target_modules: ["q_proj"],
    layers_to_transform: names.map((_, i) => i),
  });
  const error = assertThrows(() => getPeftModel(base, layers));
  assert((error as Error).message.length < 500);
  const unknown = assertThrows(() => fromPeftJson({ peft_type: "LORA", ...each(1) }), ConfigError);
  assert(unknown.message.length < 2000, "and not all of them are named");
  assertThrows(
    () => fromPeftJson({ peft_type: "IA3", target_modules: names, feedforward_modules: ["x"] }),
    ConfigError,
  );
  assert(performance.now() - start < 5000);
});

Deno.test("long lists of targets are condensed in time that grows with them", async () => {
  const modules = modulesOf(await goldenBase("llama")), start = performance.now();
  const targets = Array.from({ length: 50_000 }, (_, i) => `model.layers.${i}.x_${i}`);
  assertEquals(condenseTargets(targets, modules).length, targets.length);
  assert(performance.now() - start < 3000);
});

Deno.test("an expression that takes too long is refused, and a long one too", async () => {
  const base = await goldenBase("llama"), start = performance.now();
  for (const pattern of [String.raw`((\w+|\.)+)+\1v_proj`, "x".repeat(100_000)]) {
    const error = assertThrows(
      () => getPeftModel(base, peftLora({ target_modules: pattern })),
      ConfigError,
    );
    assert(["CONFIG_REGEX", "TARGET_NOT_FOUND"].includes(error.code), error.code);
  }
  for (const pattern of ["(a+)+$", "(.*)*x", String.raw`((\w|\.)*)*y`]) {
    for (const field of ["target_modules", "exclude_modules"]) {
      const config = peftLora({ target_modules: ["q_proj"], [field]: pattern });
      try {
        getPeftModel(base, config);
      } catch (error) {
        assertEquals((error as ConfigError).code, "TARGET_NOT_FOUND");
      }
    }
    getPeftModel(base, peftLora({ target_modules: ["q_proj"], rank_pattern: { [pattern]: 4 } }));
  }
  assert(performance.now() - start < 3000);
});
