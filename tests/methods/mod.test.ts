import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { UnsupportedError, ValueError } from "../../lib/errors.ts";
import {
  commonFields,
  type ConfigSchema,
  described,
  field,
  parseConfig,
  type PeftConfig,
} from "../../lib/methods/config.ts";
import { lora } from "../../lib/methods/lora/lora.ts";
import type { PeftMethod } from "../../lib/methods/method.ts";
import {
  createMethodRegistry,
  defaultMethods,
  methodOf,
  prefixOf,
  registerPeftMethod,
} from "../../lib/methods/mod.ts";
import { fromPeftJson, toPeftJson } from "../../lib/methods/peft-json.ts";
import { PeftType, TASK_TYPES, TaskType } from "../../lib/methods/peft-types.ts";

interface GainConfig extends PeftConfig {
  readonly gainStep: number;
  readonly deltaT: number;
}

const gainSchema: ConfigSchema<GainConfig> = {
  peftType: "GAIN",
  fields: {
    ...commonFields("GAIN"),
    gainStep: field.float(2),
    deltaT: described(field.integer(1, 0), { json: "deltaT" }),
  },
};

/** A method from outside: nothing but a config, for the registry. */
const gain: PeftMethod<GainConfig> = {
  name: "gain",
  config: gainSchema,
  leaves: {},
};

Deno.test("a registered method reads and writes its configs; the registry before stays as it was", () => {
  const known = [...defaultMethods.keys()];
  const registry = registerPeftMethod(defaultMethods, gain);
  assertEquals([...defaultMethods.keys()], known);
  assertEquals([...registry.keys()], [...known, "GAIN"]);
  assertStrictEquals(methodOf("GAIN", registry), gain);
  assertStrictEquals(registry.get("GAIN"), gain);
  assertEquals(prefixOf(registry.get("GAIN")!), "gain_");
  const other = registerPeftMethod(defaultMethods, { ...gain, prefix: "amplify_" });
  assertEquals(prefixOf(other.get("GAIN")!), "amplify_");
  const config = parseConfig(gainSchema, { deltaT: 5, taskType: "SEQ_CLS" });
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

Deno.test("registering refuses with PEFT's messages, in its order", () => {
  const suffix = (name: string): [{ name: string }, string] => [
    { name },
    `Please pass the name of the PEFT method without '_' suffix, got ${name}.`,
  ];
  const lower = (name: string): [{ name: string }, string] => [
    { name },
    `The name of the PEFT method should be in lower case letters, got ${name}.`,
  ];
  const cases: [Partial<PeftMethod>, string][] = [
    suffix("gain_"),
    suffix("_"),
    suffix("LoRA_"),
    lower("Gain"),
    lower("12"),
    lower(""),
    lower("ga\u{1D400}in"),
    lower("\u01C5"),
    [
      { name: "lora" },
      "There is already PEFT method called 'lora', please choose a unique name.",
    ],
    [
      { prefix: "lora_" },
      "There is already a prefix called 'lora_', please choose a unique prefix.",
    ],
    // Also where it is that of another method only because its name says nothing else.
    [
      { prefix: "ia3_" },
      "There is already a prefix called 'ia3_', please choose a unique prefix.",
    ],
    [
      { prefix: "vera_lambda_" },
      "There is already a prefix called 'vera_lambda_', please choose a unique prefix.",
    ],
    // What is taken comes before what disagrees.
    [
      { name: "lora", prefix: "amplify_" },
      "There is already PEFT method called 'lora', please choose a unique name.",
    ],
  ];
  for (const [change, message] of cases) {
    const error = assertThrows(
      () => registerPeftMethod(defaultMethods, { ...gain, ...change }),
      ValueError,
    );
    assertEquals(error.message, message);
  }
  // Not PEFT's, as there the type follows from the name.
  const parts: [Partial<PeftMethod>, string][] = [
    [{ config: { ...gainSchema, peftType: "OTHER" } }, "its config says OTHER"],
    [{ name: "élan" }, "the peft_type ÉLAN"],
    [{ name: undefined }, "found undefined as the name"],
    [{ config: undefined }, "undefined as the config"],
    [{ leaves: undefined }, "undefined as the leaves"],
  ];
  for (const [change, message] of parts) {
    assertThrows(
      () => registerPeftMethod(defaultMethods, { ...gain, ...change } as PeftMethod),
      ValueError,
      message,
    );
  }
  assertThrows(() => createMethodRegistry([gain, gain]), ValueError, "already PEFT method");
});

Deno.test("a method that is not registered is named, with the nearest", () => {
  assertStrictEquals(methodOf("LORA"), lora);
  assertThrows(() => methodOf("LORRA"), UnsupportedError, '"LORRA" is registered (nearest: LORA)');
  assertThrows(() => methodOf("LORA", new Map()), UnsupportedError, "none");
});

Deno.test("PeftType and TaskType are values as well as types, in PEFT's order", () => {
  const lora: PeftType = PeftType.LORA;
  const causal: TaskType = TaskType.CAUSAL_LM;
  // @ts-expect-error: no method of PEFT
  const other: PeftType = "GAIN";
  assertEquals([lora, causal, other], ["LORA", "CAUSAL_LM", "GAIN"]);
  for (const names of [PeftType, TaskType]) {
    assertEquals(Object.keys(names), Object.values(names));
    assert(Object.isFrozen(names));
  }
  const types = Object.values(PeftType);
  assertEquals(types.length, 46);
  assertEquals(types.slice(0, 6), [
    "PROMPT_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "LORA",
    "ADALORA",
  ]);
  assertEquals(types.at(-1), "DEFT");
  assertEquals(TASK_TYPES, [
    "SEQ_CLS",
    "SEQ_2_SEQ_LM",
    "CAUSAL_LM",
    "TOKEN_CLS",
    "QUESTION_ANS",
    "FEATURE_EXTRACTION",
  ]);
  // What the library brings is PEFT's.
  for (const type of defaultMethods.keys()) assert(type in PeftType, type);
});
