/**
 * What follows from each kind of rule: methods that are nothing but one rule, on models that store their weights either way.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { getAdapterStateDict } from "../../lib/adapters/checkpoint/state-dict.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { supportsLoraConversion } from "../../lib/adapters/lora/convert-to-lora.ts";
import { mergeAdapter, mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import { withAdapterScale } from "../../lib/adapters/scope.ts";
import { UnsupportedError, ValueError } from "../../lib/errors.ts";
import {
  commonFields,
  type ConfigSchema,
  parseConfig,
  type TargetConfig,
  targetFields,
} from "../../lib/methods/config.ts";
import type { LeafRule, PeftMethod } from "../../lib/methods/method.ts";
import { createMethodRegistry, type MethodRegistry } from "../../lib/methods/mod.ts";
import {
  type ChangeRule,
  type DeltaRule,
  isConvertible,
  isMergeable,
  isScalable,
  type SiteRules,
} from "../../lib/methods/site-rule.ts";
import { parameterShapes, type Site } from "../../lib/model/site.ts";
import { mul } from "../../lib/ops/elementwise.ts";
import { reshape } from "../../lib/ops/reshape.ts";
import { sizeOf } from "../../lib/tensor/dtype.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { goldenBase } from "../adapters/bases.ts";
import { randomized } from "../adapters/randomized.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import { apart } from "../steps.ts";

/** A leaf of zeros or ones. */
const filled = (shape: readonly number[], value: number): LeafRule => ({
  shape,
  init: () => new Float32Array(sizeOf(shape)).fill(value),
});

function methodOf(
  name: string,
  sites: SiteRules<TargetConfig>,
  leaves: (site: Site) => Readonly<Record<string, LeafRule>>,
): PeftMethod<TargetConfig> {
  const peftType = name.toUpperCase();
  const config: ConfigSchema<TargetConfig> = {
    peftType,
    fields: { ...commonFields(peftType), ...targetFields() },
  };
  return { name, config, leaves: { site: ({ site }) => leaves(site) }, sites: () => sites };
}

const delta: DeltaRule<TargetConfig> = { delta: ({ leaves }) => leaves.delta_w };
const replace = { replaces: { weight: "replace_w", bias: "replace_b" } };
const output: ChangeRule<TargetConfig> = {
  output: ({ leaves }, y) => mul(y, leaves.output_f),
};
const both: ChangeRule<TargetConfig> = {
  input: ({ leaves }, x) => mul(x, leaves.both_i),
  output: ({ leaves }, y) => mul(y, leaves.both_o),
  weight({ leaves, site }, { weight, bias }) {
    const [first, last] = site.kind === "linear"
      ? [leaves.both_o, leaves.both_i]
      : [leaves.both_i, leaves.both_o];
    return {
      weight: mul(mul(weight, reshape(first, [-1, 1])), last),
      ...(bias && { bias: mul(bias, leaves.both_o) }),
    };
  },
};

const METHODS = {
  delta: methodOf(
    "delta",
    { linear: delta, conv1d: delta, embedding: delta },
    (site) => ({ delta_w: filled(parameterShapes(site).weight, 0) }),
  ),
  replace: methodOf(
    "replace",
    { linear: replace, conv1d: replace, norm: replace },
    (site) =>
      Object.fromEntries(
        Object.entries(parameterShapes(site)).map((
          [name, shape],
        ) => [`replace_${name[0]}`, filled(shape, name === "weight" ? 0.1 : 0)]),
      ),
  ),
  output: methodOf("output", { linear: output, conv1d: output }, (site) => ({
    output_f: filled([site.outFeatures], 1),
  })),
  both: methodOf("both", { linear: both, conv1d: both }, (site) => ({
    both_i: filled([site.inFeatures], 1),
    both_o: filled([site.outFeatures], 1),
  })),
};

type Name = keyof typeof METHODS;

const registry: MethodRegistry = createMethodRegistry(Object.values(METHODS));

const TARGETS: Readonly<Record<string, Readonly<Record<Name, readonly string[]>>>> = {
  llama: {
    delta: ["q_proj", "embed_tokens"],
    replace: ["up_proj", "input_layernorm"],
    output: ["v_proj"],
    both: ["down_proj"],
  },
  gpt2: {
    delta: ["c_attn", "wte"],
    replace: ["c_fc", "ln_1"],
    output: ["c_attn"],
    both: ["mlp.c_proj"],
  },
};

const INPUTS = { inputIds: [[5, 41, 3, 60, 7], [9, 9, 12, 0, 33]] };

async function logitsOf(model: AnyModel, adapterNames?: readonly string[]): Promise<Float32Array> {
  return await toFloat32((await forward(model, { ...INPUTS, adapterNames })).logits);
}

function configOf(name: Name, kind: string): TargetConfig {
  return parseConfig(METHODS[name].config, { targetModules: TARGETS[kind][name] });
}

Deno.test("a rule says whether an adapter can be merged, scaled and converted", () => {
  const of = (name: Name) => ({ method: METHODS[name], config: configOf(name, "llama") });
  const said = (name: Name) => [isMergeable, isScalable, isConvertible].map((is) => is(of(name)));
  assertEquals(said("delta"), [true, true, true]);
  assertEquals(said("replace"), [true, false, false]);
  assertEquals(said("output"), [false, false, false]);
  assertEquals(said("both"), [true, false, true]);
  // What it does to the pass as a whole no weight can hold; what adapts nothing has no strength.
  const { method, config } = of("delta");
  assertEquals(isMergeable({ method: { ...method, pass: {} }, config }), false);
  const none = { method: { ...method, sites: undefined }, config };
  assertEquals([isMergeable, isScalable, isConvertible].map((is) => is(none)), [
    false,
    false,
    false,
  ]);
  // One site that cannot is enough.
  const mixed = { ...method, sites: () => ({ linear: delta, conv1d: output }) } as PeftMethod;
  assertEquals(isConvertible({ method: mixed, config }), false);
  assertEquals(isMergeable({ method: mixed, config }), false);
});

for (const kind of Object.keys(TARGETS)) {
  for (const name of Object.keys(METHODS) as Name[]) {
    testOnceOnWebGpu(`a method of the rule "${name}" on ${kind}`, async (device) => {
      const base = await goldenBase(kind, device), config = configOf(name, kind);
      const start = getPeftModel(base, config, { registry });
      const plain = await logitsOf(base);
      const same = apart(await logitsOf(start), plain);
      assert(name === "replace" ? same > 1e-3 : same < 1e-6, `${same} off the base at first`);
      const model = await randomized(start);
      const own = await logitsOf(model);
      assert(apart(own, plain) > 1e-3, "it changes the outputs");

      // Merged, into another model and in place.
      if (name === "output") {
        assertThrows(() => mergeAndUnload(model), UnsupportedError, "OUTPUT cannot be merged");
      } else {
        assert(apart(await logitsOf(mergeAndUnload(model)), own) < 1e-5, "merged as unmerged");
        assert(apart(await logitsOf(mergeAdapter(model)), own) < 1e-5, "merged in place");
      }

      // Scaled.
      if (name === "delta") {
        const { value } = await withAdapterScale(model, 0.5, async (half) => [
          await logitsOf(half),
          await logitsOf(mergeAndUnload(half)),
        ]);
        assert(apart(value[0], own) > 1e-3 && apart(value[0], plain) > 1e-3, "the scale counts");
        assert(apart(value[1], value[0]) < 1e-5, "merged as unmerged at half the scale");
      } else {
        await assertRejects(() => withAdapterScale(model, 0.5, logitsOf), ValueError);
      }
      assertEquals(supportsLoraConversion(model), ["delta", "both"].includes(name));

      // Saved and loaded; in a batch with rows of the base and of another adapter.
      const tensors = getAdapterStateDict(model);
      const loaded = await loadAdapter(base, { config, tensors }, { registry });
      assertEquals(await logitsOf(loaded), own);
      const two = addAdapter(model, "other", config, { registry });
      const rows = await logitsOf(two, ["default", "__base__"]), half = rows.length / 2;
      assert(apart(rows.subarray(0, half), own.subarray(0, half)) < 1e-5, "its own row");
      assert(apart(rows.subarray(half), plain.subarray(half)) < 1e-5, "a row of the base");
    });
  }
}
