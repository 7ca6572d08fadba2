import { assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { UnsupportedError, ValueError } from "../../lib/errors.ts";
import {
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type PeftConfig,
} from "../../lib/methods/config.ts";
import { lora } from "../../lib/methods/lora.ts";
import type { PeftMethod } from "../../lib/methods/method.ts";
import {
  createMethodRegistry,
  defaultMethods,
  methodOf,
  registerPeftMethod,
} from "../../lib/methods/mod.ts";
import { fromPeftJson, toPeftJson } from "../../lib/methods/peft-json.ts";

interface GainConfig extends PeftConfig {
  readonly gainStep: number;
  readonly deltaT: number;
}

const gainSchema: ConfigSchema<GainConfig> = {
  peftType: "GAIN",
  floats: ["gainStep"],
  jsonNames: { deltaT: "deltaT" },
  fields: { ...commonFields("GAIN"), gainStep: field.number(2), deltaT: field.integer(1, 0) },
};

/** A method from outside: nothing but a config, for the registry. */
const gain: PeftMethod<GainConfig> = {
  peftType: "GAIN",
  prefix: "gain_",
  parseConfig: (config) => parseConfig(gainSchema, config),
  siteKinds: ["linear"],
  defaultTargets: {},
  leafShapes: () => ({}),
  init: () => Promise.resolve({ leaves: {}, frozen: {} }),
  forward: ({ result }) => result,
  keyOf: (leaf) => leaf,
};

const entry = { name: "gain", config: gainSchema, method: gain };

Deno.test("a registered method reads and writes its configs; the registry before stays as it was", () => {
  const registry = registerPeftMethod(defaultMethods, entry);
  assertEquals([...defaultMethods.keys()], ["LORA"]);
  assertEquals([...registry.keys()], ["LORA", "GAIN"]);
  assertStrictEquals(methodOf("GAIN", registry), gain);
  assertEquals(registry.get("GAIN")!.prefix, "gain_");
  assertEquals(registry.get("GAIN")!.isMixedCompatible, false);
  const config = gain.parseConfig({ deltaT: 5, taskType: "SEQ_CLS" });
  const text = toPeftJson(config, { registry });
  assertEquals(
    text,
    `{
  "auto_mapping": null,
  "base_model_name_or_path": null,
  "deltaT": 5,
  "gain_step": 2.0,
  "inference_mode": true,
  "peft_type": "GAIN",
  "peft_version": "0.21.0",
  "revision": null,
  "task_type": "SEQ_CLS"
}`,
  );
  assertEquals(fromPeftJson(JSON.parse(text), { registry }), { ...config, inferenceMode: true });
  assertThrows(() => toPeftJson(config), UnsupportedError, '"GAIN"');
});

Deno.test("registering refuses with PEFT's messages", () => {
  const cases: [Partial<typeof entry> & { prefix?: string }, string][] = [
    [{ name: "gain_" }, "Please pass the name of the PEFT method without '_' suffix, got gain_."],
    [{ name: "Gain" }, "The name of the PEFT method should be in lower case letters, got Gain."],
    [{ name: "12" }, "The name of the PEFT method should be in lower case letters, got 12."],
    [
      { name: "lora" },
      "There is already PEFT method called 'lora', please choose a unique name.",
    ],
    [
      { prefix: "lora_" },
      "There is already a prefix called 'lora_', please choose a unique prefix.",
    ],
    [
      { prefix: "amplify_" },
      "Inconsistent prefixes found: 'amplify_' and 'gain_' (they should be the same).",
    ],
    [{ method: { ...gain, peftType: "OTHER" } }, "OTHER"],
  ];
  for (const [change, message] of cases) {
    assertThrows(
      () => registerPeftMethod(defaultMethods, { ...entry, ...change }),
      ValueError,
      message,
    );
  }
  assertThrows(() => createMethodRegistry([entry, entry]), ValueError, "already PEFT method");
});

Deno.test("a method that is not registered is named, with the nearest", () => {
  assertStrictEquals(methodOf("LORA"), lora);
  assertThrows(() => methodOf("LORRA"), UnsupportedError, '"LORRA" is registered (nearest: LORA)');
  assertThrows(() => methodOf("LORA", new Map()), UnsupportedError, "none");
});
