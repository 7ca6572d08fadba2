/**
 * Convolutions of one to three dimensions and what adapts them, against torch and PEFT.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import type { AnyModel, PeftModel } from "../../lib/adapters/peft-model.ts";
import { planAdapter } from "../../lib/adapters/plan/plan.ts";
import { setAdapter } from "../../lib/adapters/select.ts";
import { addWeightedAdapter } from "../../lib/adapters/combine/weighted-adapter.ts";
import type { Device } from "../../lib/device/device.ts";
import { UnsupportedError } from "../../lib/errors.ts";
import { type LoraConfig, loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { fromPeftJson } from "../../lib/methods/peft-json.ts";
import type { TargetConfig } from "../../lib/methods/config.ts";
import type { Architecture } from "../../lib/model/architecture.ts";
import { createModelGraph, type ModelGraph, structureOf } from "../../lib/model/model-graph.ts";
import { concat } from "../../lib/ops/concat.ts";
import { tanh } from "../../lib/ops/elementwise.ts";
import { reshape } from "../../lib/ops/reshape.ts";
import { float32ToBits, toFloat32 } from "../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { testDevice, testOnceOnWebGpu, testOnDevices } from "../devices.ts";
import { expectedGradients } from "../golden-case.ts";
import { adamLosses, apart, differentiate } from "../steps.ts";
import golden from "./convolution.golden.json" with { type: "json" };

const { base, cases } = golden as unknown as {
  readonly base: {
    readonly tokens: number;
    readonly width: number;
    readonly vocabulary: number;
    readonly features: number;
    readonly ids: number[][];
    readonly logits: number[];
    readonly layers: Readonly<
      Record<string, {
        readonly shape: number[];
        readonly out: number;
        readonly kernel: number[];
        readonly stride?: number[];
        readonly padding?: number[];
        readonly dilation?: number[];
        readonly groups?: number;
        readonly bias?: boolean;
      }>
    >;
  };
  readonly cases: readonly {
    readonly name: string;
    readonly config: Readonly<Record<string, unknown>>;
    readonly keys: Readonly<Record<string, number[]>>;
    /** The first six and the last three numbers of each leaf. */
    readonly initial: Readonly<Record<string, number[]>>;
    readonly logits: number[];
    readonly merged: number[] | null;
    readonly gradients: Readonly<Record<string, number[]>>;
    readonly losses: number[];
  }[];
};

/** All convolutions side by side on the same tokens. */
const convolver: Architecture = {
  name: "convolver",
  modelTypes: ["convolver"],
  bodyPath: "",
  heads: { CAUSAL_LM: null },
  body(m) {
    const { vocabulary, width, tokens, features, layers } = base;
    const table = m.embedding("table", { rows: vocabulary, size: width });
    const all = Object.entries(layers).map(([name, { shape, out, kernel, ...options }]) => ({
      shape,
      conv: m.conv(name, { in: shape[0], out, kernel }, options),
    }));
    const head = m.linear("head", { in: features, out: tokens * vocabulary });
    return {
      hidden: width,
      run(_pass, { ids }) {
        const rows = table(ids), [batch] = ids.shape;
        const parts = all.map(({ shape, conv }) =>
          reshape(conv(reshape(rows, [batch, ...shape])), [batch, -1])
        );
        const logits = head(tanh(concat(parts, { axis: 1 })));
        return { logits: reshape(logits, [batch, tokens, vocabulary]) };
      },
    };
  },
};

/** The values of a parameter, as the script that wrote the golden file computes them. */
function fill(name: string, shape: readonly number[]): Float32Array<ArrayBuffer> {
  const seed = [...name].reduce((sum, c) => sum + c.charCodeAt(0), 0) % 97;
  const size = shape.reduce((n, d) => n * d, 1);
  return Float32Array.from({ length: size }, (_, i) => 0.2 * Math.sin(1.3 * i + seed) + 0.05);
}

function modelOn(device: Device, dtype: "f32" | "bf16" = "f32"): ModelGraph {
  const config = { model_type: "convolver" };
  const { shapes } = structureOf({ architecture: convolver, config, taskType: "CAUSAL_LM" });
  const parameters = new Map([...shapes].map(([name, shape]) => {
    const values = fill(name, shape), isKernel = shape.length > 2 && dtype === "bf16";
    return [
      name,
      isKernel
        ? tensor(float32ToBits(values, "bf16"), { shape, dtype: "bf16" })
        : tensor(values, { shape }),
    ] as const;
  }));
  return createModelGraph(convolver, { config, parameters, device });
}

async function logitsOf(model: AnyModel): Promise<Float32Array> {
  return await (await forward(model, { inputIds: base.ids })).logits.data() as Float32Array;
}

const PREFIX = "base_model.model.";

function adapterOn(model: ModelGraph, config: Readonly<Record<string, unknown>>): PeftModel {
  return getPeftModel(model, fromPeftJson({ task_type: "CAUSAL_LM", ...config }) as TargetConfig, {
    seed: 7,
  });
}

/** The adapter with the values of its keys, by which DoRA's magnitudes change. */
async function filled(model: PeftModel): Promise<PeftModel> {
  const values = new Map<string, Tensor>();
  for (const [key, leaf] of getAdapterStateDict(model)) {
    const magnitude = key.includes("magnitude"), old = await toFloat32(leaf);
    const name = key.slice(PREFIX.length) + (magnitude ? ".weight" : "");
    const own = fill(name, leaf.shape).map((x, i) => magnitude ? x + old[i] : x);
    values.set(key, tensor(own, { shape: leaf.shape }));
  }
  return (await setAdapterStateDict(model, values)).model;
}

testOnDevices("convolutions of 1 to 3 dimensions give what torch gives", async (device) => {
  const model = modelOn(device);
  assert(apart(await logitsOf(model), base.logits) < 1e-5);
  const kinds = [...model.sites.values()].map(({ kind }) => kind);
  assertEquals(kinds, ["embedding", ...Object.keys(base.layers).map(() => "conv"), "linear"]);
  // Kernels may be kept in 16 bits.
  assert(apart(await logitsOf(modelOn(device, "bf16")), base.logits) < 5e-3);
});

const BATCH = {
  inputIds: tensor(Int32Array.from(base.ids.flat()), { shape: [2, 8] }),
  attentionMask: tensor(new Int32Array(16).fill(1), { shape: [2, 8] }),
  labels: tensor(Int32Array.from(base.ids.flat()), { shape: [2, 8] }),
};

for (const { name, config, ...expected } of cases) {
  testOnceOnWebGpu(`${name} at convolutions is as in PEFT`, async (device) => {
    const fresh = adapterOn(modelOn(device), config);
    const saved = getAdapterStateDict(fresh);
    assertEquals(
      Object.fromEntries([...saved].map(([key, { shape }]) => [key, [...shape]]).sort()),
      Object.fromEntries(Object.entries(expected.keys).sort()),
    );
    for (const [key, values] of Object.entries(expected.initial)) {
      const own = await toFloat32(saved.get(key)!);
      assert(apart([...own.slice(0, 6), ...own.slice(-3)], values, 1) < 1e-5, `first ${key}`);
    }
    const model = await filled(fresh);
    assert(apart(await logitsOf(model), expected.logits) < 2e-5, "logits");
    if (expected.merged) {
      assert(apart(await logitsOf(mergeAndUnload(model)), expected.merged) < 2e-5, "merged");
    } else {
      assertThrows(() => mergeAndUnload(model), UnsupportedError, "merged");
    }
    const { grads } = await differentiate(model, BATCH);
    const recorded = new Map(
      Object.entries(expected.gradients).map((
        [n, x],
      ) => [`grad.${n}`, tensor(Float32Array.from(x))]),
    );
    const gradients = await expectedGradients(model, {
      names: () => recorded.keys(),
      get: (name) => recorded.get(name)!,
    });
    assertEquals(new Set(gradients.keys()), new Set(grads.keys()));
    const largest = Math.max(...[...gradients.values()].flatMap((x) => [...x.map(Math.abs)]));
    for (const [leaf, values] of gradients) {
      assert(apart(grads.get(leaf)!, values, largest) < 2e-5, `gradient of ${leaf}`);
    }
    const losses = await adamLosses(model, [BATCH, BATCH, BATCH], { lr: 1e-2, weight_decay: 0 });
    assert(apart(losses, expected.losses) < 1e-5, `${losses} for ${expected.losses}`);
  });
}

Deno.test("what methods cannot do at a convolution is said by the plan", async () => {
  const model = modelOn(await testDevice("cpu"));
  const refused: readonly (readonly [Readonly<Record<string, unknown>>, string])[] = [
    [{ target_modules: ["signals"], r: 2 }, "4 groups"],
    [{ target_modules: ["images"], r: 2 }, "dilation"],
    [{ target_modules: ["image"], init_lora_weights: "pissa" }, "pissa"],
    [{ peft_type: "OFT", target_modules: ["image"] }, "3×3"],
    [{ peft_type: "OFT", target_modules: ["volume"] }, "2 dimensions"],
    [{ peft_type: "IA3", target_modules: ["signal"], feedforward_modules: [] }, "2 or 3"],
    [{ peft_type: "ADALORA", target_modules: ["images"], total_step: 900 }, "groups"],
    [{ peft_type: "VERA", target_modules: ["image"] }, "conv"],
    [{ peft_type: "LOHA", target_modules: ["volume"] }, "1 or 2 dimensions"],
    [{ peft_type: "HIRA", target_modules: ["signals"] }, "without groups"],
  ];
  for (const [config, text] of refused) {
    const full = fromPeftJson({ peft_type: "LORA", task_type: "CAUSAL_LM", ...config });
    const { problems } = planAdapter(model, full as TargetConfig);
    assert(problems.some(({ message }) => message.includes(text)), `${text}: ${problems}`);
  }
  // What all linear layers are: none of these.
  const { sites } = planAdapter(model, loraConfig({ targetModules: "all-linear" }));
  assertEquals(sites.map(({ site }) => site.path), ["head"]);
});

testOnDevices("LoRAs of convolutions are combined", async (device) => {
  const one = await filled(adapterOn(modelOn(device), cases[0].config));
  const { config } = one.adapters.get("default")!, options = { seed: 3 };
  const random = loraConfig({ ...config as LoraConfig, loraAlpha: 5, initLoraWeights: false });
  const both = addAdapter(one, "second", random, options);
  const adapters = ["default", "second"];
  const expected = await logitsOf(setAdapter(both, adapters));
  for (const combinationType of ["cat", "svd"] as const) {
    const of = { adapters, weights: [1, 1], adapterName: "sum", combinationType, svdRank: 4 };
    const sum = setAdapter(addWeightedAdapter(both, of), "sum");
    assert(apart(await logitsOf(sum), expected) < 2e-5, combinationType);
  }
});
