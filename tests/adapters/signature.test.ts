import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import type { ForwardInputs, ForwardOutputs } from "../../lib/adapters/forward.ts";
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
import type { GenerateOptions } from "../../lib/generation/generate.ts";
import { describeSignature, type GenerateOptionsOf } from "../../lib/generation/signature.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import type { Architecture } from "../../lib/model/architecture.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import type { FieldSignatures, ParameterSignature } from "../../lib/model/signature.ts";
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
  assertEquals(names(generate.returns.fields), ["text", "tokenIds", "promptIds", "finishReason"]);
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

Deno.test("types and docs are those of the interfaces", async () => {
  const { model } = await models();
  const forward = describeSignature(model), generate = describeSignature(model, "generate");
  const options = [
    ...await declared("generation/generate.ts", "GenerateOptions"),
    ...await declared("generation/sampling.ts", "SamplingOptions"),
  ].filter(({ name }, i, all) => all.findIndex((field) => field.name === name) === i);
  const cases: readonly [readonly ParameterSignature[], readonly ParameterSignature[]][] = [
    [forward.parameters, await declared("adapters/forward.ts", "ForwardInputs")],
    [forward.returns.fields, await declared("adapters/forward.ts", "ForwardOutputs")],
    [generate.parameters.slice(1), options],
    [generate.returns.fields, await declared("generation/generate.ts", "Generation")],
  ];
  const sorted = (fields: readonly ParameterSignature[]) =>
    fields.toSorted((a, b) => a.name < b.name ? -1 : 1);
  for (const [described, found] of cases) {
    assert(found.length > 2, "the source is read");
    assertEquals(sorted(described), sorted(found));
  }
});

Deno.test("an architecture says its own inputs, and whether it writes text", async () => {
  const { base } = await models();
  const labels: ParameterSignature = {
    name: "labels",
    type: "readonly number[]",
    optional: true,
    doc: "The class of each row [B].",
  };
  const withSignature = (signature: Architecture["signature"]): PeftModel => {
    const classifier: ModelGraph = {
      ...base,
      architecture: { ...base.architecture, name: "bert", signature },
    };
    return getPeftModel(classifier, loraConfig({ r: 2 }));
  };
  const model = withSignature(() => ({
    inputs: ["inputIds", labels],
    outputs: ["logits"],
    generates: false,
  }));
  assertEquals(inputsOf(model), [...OWN_INPUTS, "adapterNames"]);
  const { parameters, returns, doc } = describeSignature(updateSignature(model));
  assertEquals(names(parameters), ["inputIds", "labels"]);
  assertEquals(parameters[1], labels);
  assertEquals(names(returns.fields), ["logits"]);
  assert(doc.includes("bert"));
  for (const any of [model, updateSignature(model), model.base]) {
    assertThrows(() => describeSignature(any, "generate"), UnsupportedError, "bert");
  }
  const wrong = withSignature(() => ({ inputs: ["pixels"], outputs: [] }));
  const error = assertThrows(
    () => describeSignature(updateSignature(wrong)),
    UnsupportedError,
    "pixels",
  );
  assertEquals(error.code, "SIGNATURE_NAME");
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

Deno.test("tables that drift from their interfaces do not compile", () => {
  const logits = { type: "Tensor", doc: "", optional: false } as const;
  const loss = { type: "number", doc: "", optional: true } as const;
  const table: FieldSignatures<ForwardOutputs> = { logits, lastHiddenState: logits, loss };
  // @ts-expect-error: a field is missing
  const missing: FieldSignatures<ForwardOutputs> = { logits, loss };
  // @ts-expect-error: loss is optional
  const required: FieldSignatures<ForwardOutputs> = { ...table, loss: logits };
  // @ts-expect-error: logits is not optional
  const optional: FieldSignatures<ForwardOutputs> = { ...table, logits: loss };
  // @ts-expect-error: there is no such field
  const other: FieldSignatures<ForwardOutputs> = { logits, lastHiddenState: logits, loss, x: loss };
  assertEquals([missing, required, optional, other].length, 4);
});
