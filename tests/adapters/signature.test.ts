import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import type { ForwardInputs } from "../../lib/adapters/batch.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import type { AnyModel, PeftModel } from "../../lib/adapters/peft-model.ts";
import { disableAdapters } from "../../lib/adapters/select.ts";
import {
  type AdapterInput,
  type ForwardInputsOf,
  updateForwardSignature,
  updateGenerateSignature,
  updateSignature,
  type WithForwardSignature,
  type WithGenerateSignature,
} from "../../lib/adapters/signature.ts";
import { ARCHITECTURES } from "../../lib/architectures/mod.ts";
import { UnsupportedError, ValueError } from "../../lib/errors.ts";
import type { GenerateOptions } from "../../lib/generation/generate-options.ts";
import { describeSignature, type GenerateOptionsOf } from "../../lib/generation/signature.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { polyConfig } from "../../lib/methods/poly.ts";
import type { BatchInput } from "../../lib/model/batch-input.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import { TASK_TYPES, type TaskType } from "../../lib/model/task-type.ts";
import type { ParameterSignature } from "../../lib/model/signature.ts";
import { goldenBase } from "./bases.ts";

const OWN_INPUTS = ["inputIds", "attentionMask", "positionIds", "labels"];

async function models(kind = "llama") {
  const base = await goldenBase(kind);
  return { base, model: getPeftModel(base, loraConfig({ r: 2 })) };
}

function names(fields: readonly ParameterSignature[]): string[] {
  return fields.map(({ name }) => name);
}

function inputsOf(model: AnyModel): string[] {
  return names(describeSignature(model).parameters);
}

function optionsOf(model: AnyModel): string[] {
  return names(describeSignature(model, "generate").parameters);
}

Deno.test("a model with adapters shows the general signature until it is updated", async () => {
  const { base, model } = await models();
  assertEquals(inputsOf(model), [...OWN_INPUTS, "adapterNames"]);
  assertEquals(inputsOf(base), OWN_INPUTS);
  assertEquals(optionsOf(model).filter((name) => !optionsOf(base).includes(name)), [
    "adapterNames",
  ]);

  const updated = updateForwardSignature(model);
  assertEquals(describeSignature(updated), describeSignature(base));
  assertEquals(describeSignature(updated, "generate"), describeSignature(model, "generate"));
  const written = updateGenerateSignature(model);
  assertEquals(describeSignature(written, "generate"), describeSignature(base, "generate"));
  assertEquals(describeSignature(written), describeSignature(model));
  // The order does not matter, and nothing but the signature changes.
  for (const both of [updateGenerateSignature(updated), updateSignature(model)]) {
    assertEquals(describeSignature(both), describeSignature(base));
    assertEquals(describeSignature(both, "generate"), describeSignature(base, "generate"));
    assertEquals({ ...both, signatures: undefined }, { ...model, signatures: undefined });
    assertStrictEquals(both.adapters, model.adapters);
  }
  assertEquals("signatures" in model, false);
  // It stays with the models that are made of the updated one.
  assertEquals(inputsOf(disableAdapters(updated)), OWN_INPUTS);
});

Deno.test("updateSignature chooses, and gives the model itself where nothing changes", async () => {
  const { base, model } = await models("gpt2");
  const shown = (m: AnyModel) => [inputsOf(m), optionsOf(m)].map((n) => n.includes("adapterNames"));
  assertEquals(shown(updateSignature(model, "forward")), [false, true]);
  assertEquals(shown(updateSignature(model, "generate")), [true, false]);
  assertEquals(shown(updateSignature(model, "all")), [false, false]);
  assertEquals(shown(updateSignature(model)), [false, false]);
  const all = updateSignature(model);
  for (const choice of ["forward", "generate", "all"] as const) {
    assertStrictEquals<AnyModel>(updateSignature(all, choice), all);
    assertStrictEquals<AnyModel>(updateSignature(base, choice), base);
  }
  assertStrictEquals<AnyModel>(updateForwardSignature(all), all);
  assertStrictEquals<AnyModel>(updateGenerateSignature(all), all);
});

Deno.test("other words and things that are no models are refused", async () => {
  const { model } = await models();
  for (const word of ["both", "", "Forward", null, 3] as unknown[]) {
    const error = assertThrows(() => updateSignature(model, word as "all"), ValueError);
    assertEquals(error.code, "SIGNATURE_METHOD");
    assert(error.message.includes("forward, generate, all"), error.message);
  }
  const error = assertThrows(() => describeSignature(model, "all" as "forward"), ValueError);
  assertEquals(error.code, "SIGNATURE_METHOD");
  const updates: readonly ((model: PeftModel) => unknown)[] = [
    updateForwardSignature,
    updateGenerateSignature,
    (model) => updateSignature(model),
  ];
  for (const use of updates) {
    for (const wrong of [undefined, {}, Promise.resolve(model)]) {
      const error = assertThrows(() => use(wrong as unknown as PeftModel), ValueError);
      assertEquals(error.code, "NOT_A_MODEL");
    }
  }
  assertThrows(() => describeSignature({} as PeftModel), ValueError, "A model is needed");
});

Deno.test("a description has types, docs, what is returned, and a text that is TypeScript", async () => {
  const { model } = await models();
  const forward = describeSignature(updateForwardSignature(model));
  assertEquals(forward.name, "forward");
  assertEquals(forward.parameters[0], {
    name: "inputIds",
    type: "TokenBatch",
    optional: false,
    doc: "Token ids [B, T], each in [0, vocabulary size).",
  });
  assertEquals(forward.parameters.map(({ optional }) => optional), [false, true, true, true]);
  assertEquals(forward.returns.type, "Promise<ForwardOutputs>");
  assertEquals(names(forward.returns.fields), ["logits", "lastHiddenState", "loss"]);
  assert(forward.doc.includes("llama"), forward.doc);
  assert(forward.text.includes("function forward(model: AnyModel, inputs: {\n"), forward.text);
  assert(
    forward.text.includes(
      "\n  /** 1 for tokens, 0 for padding on either side [B, T]; all ones by default. */" +
        "\n  attentionMask?: TokenBatch;\n",
    ),
    forward.text,
  );
  assert(forward.text.includes("interface ForwardOutputs {"), forward.text);
  assert(!forward.text.includes("adapterNames"), forward.text);

  const generate = describeSignature(model, "generate");
  assertEquals(generate.parameters[0].name, "prompt");
  assert(generate.parameters.slice(1).every(({ optional }) => optional));
  assert(
    generate.text.includes(
      "function generate(model: AnyModel, prompt: Prompt | readonly Prompt[], options?: {\n",
    ),
    generate.text,
  );
  const always = generate.returns.fields.filter(({ optional }) => !optional);
  assertEquals(names(always), ["text", "tokenIds", "promptIds", "finishReason"]);
});

/** Fields of an interface as its source declares them. */
async function declared(file: string, name: string): Promise<readonly ParameterSignature[]> {
  const source = await Deno.readTextFile(new URL(`../../lib/${file}`, import.meta.url));
  const body = source.split(new RegExp(`export interface ${name}\\b[^{]*{`))[1].split("\n}")[0];
  const fields = body.matchAll(/\/\*\*((?:(?!\*\/)[^])*)\*\/\s*readonly (\w+)(\?)?: ([^;]+);/g);
  return [...fields].map(([, comment, name, optional, type]) => ({
    name,
    type: type.replace(/\s+/g, " "),
    optional: optional === "?",
    doc: comment.replace(/^\s*\* ?/gm, "").replace(/{@link ([^}]+)}/g, "$1")
      .replace(/\s+/g, " ").trim(),
  }));
}

/** The base, as if it were for another task. */
function forTask(base: ModelGraph, type: TaskType): ModelGraph {
  return { ...base, taskType: type };
}

Deno.test("types and docs are those of the interfaces", async () => {
  const { base, model } = await models();
  const options = [
    ...await declared("generation/generate-options.ts", "GenerateOptions"),
    ...await declared("generation/sampling.ts", "SamplingOptions"),
  ].filter(({ name }, i, all) => all.findIndex((field) => field.name === name) === i);
  const inputs = await declared("adapters/batch.ts", "ForwardInputs");
  const outputs = await declared("adapters/forward.ts", "ForwardOutputs");
  const sorted = (fields: readonly ParameterSignature[]) =>
    fields.toSorted((a, b) => a.name < b.name ? -1 : 1);
  const generate = describeSignature(model, "generate");
  const general = options.filter(({ name }) => name !== "taskIds");
  assertEquals(sorted(generate.parameters.slice(1)), sorted(general));
  const routed = getPeftModel(base, polyConfig({ nTasks: 3, targetModules: ["q_proj"] }));
  assertEquals(inputsOf(routed), [...OWN_INPUTS, "taskIds", "adapterNames"]);
  const all = describeSignature(routed, "generate").parameters.slice(1);
  assertEquals(sorted(all), sorted(options));
  assertEquals(inputsOf(updateSignature(routed)), OWN_INPUTS);
  assertEquals(
    generate.returns.fields,
    await declared("generation/generate.ts", "Generation"),
  );
  const seen = new Set<string>();
  for (const type of TASK_TYPES) {
    const { parameters, returns } = describeSignature({ ...model, base: forTask(base, type) });
    for (const { name, type, doc } of parameters) {
      const field = inputs.find((field) => field.name === name)!;
      // What labels are is the task's.
      if (name !== "labels") assertEquals(field, { name, type, doc, optional: field.optional });
      else assert(field.type.split(" | ").includes(type.split(" | ")[0]), type);
      seen.add(name);
    }
    for (const { name, type } of returns.fields) {
      assertEquals(outputs.find((field) => field.name === name)?.type, type, name);
    }
  }
  // What there is for one architecture only is its own.
  assertEquals(names(inputs).filter((name) => !seen.has(name)), [
    "tokenTypeIds",
    "decoderInputIds",
    "decoderAttentionMask",
    "taskIds",
    "noise",
  ]);
});

Deno.test("architecture and task say the inputs, and whether text is written", async () => {
  const { base } = await models();
  const types: BatchInput = {
    name: "tokenTypeIds",
    axes: ["batch", "tokens"],
    dtype: "i32",
    otherwise: 0,
    doc: "Kind of each token [B, T]; 0 by default.",
  };
  const bert = { ...base.architecture, name: "bert", inputs: () => [types] };
  const classifier = forTask({ ...base, architecture: bert }, "SEQ_CLS");
  const model = getPeftModel(
    { ...classifier, config: { ...base.config, num_labels: 3 } },
    loraConfig({ r: 2 }),
  );
  const own = [...OWN_INPUTS.slice(0, 3), "tokenTypeIds", "labels"];
  assertEquals(inputsOf(model), [...own, "adapterNames"]);
  const { parameters, returns, doc } = describeSignature(updateSignature(model));
  assertEquals(names(parameters), own);
  assertEquals(parameters[3], {
    name: "tokenTypeIds",
    type: "TokenBatch",
    optional: true,
    doc: types.doc,
  });
  assertEquals(parameters[4].type, "readonly number[] | Tensor");
  assertEquals(names(returns.fields), ["logits", "lastHiddenState", "loss"]);
  assert(doc.includes("bert"));
  for (const any of [model, updateSignature(model), model.base]) {
    assertThrows(() => describeSignature(any, "generate"), UnsupportedError, "bert");
  }
  // What the registered ones say can be described.
  for (const architecture of ARCHITECTURES) {
    assert(describeSignature({ ...base, architecture }).parameters.length > 0, architecture.name);
  }
});

/** Fails to compile where the two types differ. */
function assertType<_T extends true>(): void {}
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true
  : false;
type Plain<T> = { [K in keyof T]: T[K] };
type Own<T> = Plain<Omit<T, AdapterInput>>;

Deno.test("the compiler sees the base's signature after the update", async () => {
  const { base, model } = await models();
  const forward = updateForwardSignature(model), generate = updateGenerateSignature(model);
  const all = updateSignature(model);
  const general: ForwardInputsOf<PeftModel> = { inputIds: [[1]], adapterNames: ["a"] };
  const own: ForwardInputsOf<typeof forward> = { inputIds: [[1]], labels: [[2]] };
  // @ts-expect-error: a base knows no adapters
  const wrong: ForwardInputsOf<typeof forward> = { inputIds: [[1]], adapterNames: ["a"] };
  assertEquals(Object.keys({ ...general, ...own, ...wrong }).length, 3);

  assertType<Same<Plain<ForwardInputsOf<typeof forward>>, Own<ForwardInputs>>>();
  assertType<Same<Plain<ForwardInputsOf<ModelGraph>>, Own<ForwardInputs>>>();
  assertType<Same<ForwardInputsOf<typeof generate>, ForwardInputsOf<PeftModel>>>();
  assertType<Same<Plain<GenerateOptionsOf<typeof generate>>, Own<GenerateOptions>>>();
  assertType<Same<GenerateOptionsOf<typeof forward>, GenerateOptions>>();
  assertType<Same<Plain<ForwardInputsOf<typeof all>>, Own<ForwardInputs>>>();
  assertType<Same<Plain<GenerateOptionsOf<typeof all>>, Own<GenerateOptions>>>();
  // The choice decides what is carried, whichever way it is made.
  const chosen = updateSignature(model, "forward"), chained = updateGenerateSignature(chosen);
  assertType<Same<typeof chosen, WithForwardSignature<PeftModel>>>();
  assertType<
    Same<typeof chained, WithGenerateSignature<WithForwardSignature<PeftModel>>>
  >();
  assertType<Same<ReturnType<typeof updateSignature<ModelGraph, "all">>, ModelGraph>>();
  // It is a model like any other.
  const plain: PeftModel = all;
  const unchanged: ModelGraph = updateSignature(base);
  assertEquals([plain.type, unchanged.type], ["peft", "model"]);
});
