import { assert, assertEquals, assertThrows } from "@std/assert";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import { ValueError } from "../../lib/errors.ts";
import { defineModel } from "../../lib/io/define-model.ts";
import { createModel } from "../../lib/io/load-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { createGraph, type Value } from "../../lib/ops/value.ts";
import { input } from "../../lib/ops/input.ts";
import type { Site } from "../../lib/model/site.ts";
import { programOf } from "../../lib/program/program.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { adamW, type AdamWOptions } from "../../lib/training/adamw.ts";
import { loraFa } from "../../lib/training/lora-fa.ts";
import { loraPlus, type LoraPlusOptions } from "../../lib/training/lora-plus.ts";
import { type Optimizer, packFor } from "../../lib/training/optimizer.ts";
import { packLeaves, toVector } from "../../lib/training/packing.ts";
import { riemannian } from "../../lib/training/riemannian.ts";
import { openState, savedShapes } from "../../lib/training/state.ts";
import { rateName, traceUpdate } from "../../lib/training/step-program.ts";
import { testOnDevices } from "../devices.ts";
import { apart } from "../steps.ts";
import golden from "./optimizers.golden.json" with { type: "json" };

/** Every optimizer that there is: another one is a line here, and in the golden script. */
const OPTIMIZERS: Readonly<Record<string, (options: object) => Optimizer>> = {
  adamW: (options) => adamW(options as AdamWOptions),
  loraPlus: (options) => loraPlus(options as LoraPlusOptions),
  riemannian({ reg, ...adam }: { readonly reg?: number }) {
    return riemannian({ reg, optimizer: adamW(adam) });
  },
  loraFa: (options) => loraFa(scaled, options),
};

/** A model with the scales that the reference's has. */
const scaled = getPeftModel(
  await defineModel({
    inputs: { x: { axes: ["batch", 3] } },
    modules(m) {
      m.embedding("embed", { rows: 5, size: 3 });
      const lin = m.linear("lin", { in: 3, out: 4 });
      return ({ x }) => ({ y: lin(x) });
    },
  }, { device: "cpu" }),
  loraConfig({ r: 2, targetModules: ["embed", "lin"] }),
);

const SITES = new Map(golden.leaves.map(({ name, site }) => [name, site as unknown as Site]));

function packed(optimizer: Optimizer) {
  const leaves = new Map(
    golden.leaves.map(({ name, shape, values }) => [
      name,
      tensor(Float32Array.from(values), { shape }),
    ]),
  );
  const packing = packLeaves(
    leaves,
    (name, shape) => optimizer.group?.({ name, shape, site: SITES.get(name) }) ?? "",
  );
  return { leaves, packing };
}

for (const [i, { name, options, after }] of golden.runs.entries()) {
  testOnDevices(`${name} takes the reference's steps, run ${i}`, async (device) => {
    const optimizer = OPTIMIZERS[name](options);
    const { leaves, packing } = packed(optimizer);
    const graph = createGraph();
    const gradients = new Map<string, Value>(
      [...packing.groups].map(([group, size]) => [
        group,
        input(graph, `gradient ${group}`, { shape: [size], dtype: "f32" }),
      ]),
    );
    const { state: next } = traceUpdate(graph, { packing, optimizer, gradients });
    const program = programOf(
      Object.fromEntries([...next].map(([name, value]) => [`next.${name}`, value])),
      Object.fromEntries([...next.keys()].map((name) => [name, `next.${name}`])),
    );
    const executable = await device.compile(program);
    using state = await openState(device, leaves, { packing, optimizer });
    for (const [at, factor] of golden.factors.entries()) {
      const time = { step: at + 1, learningRate: golden.learningRate, factor };
      const inputs: Record<string, ReturnType<typeof tensor>> = {};
      const given = new Map(
        golden.leaves.map(({ name, shape }, i) => [
          name,
          tensor(Float32Array.from(golden.gradients[at][i]), { shape }),
        ]),
      );
      for (const group of packing.groups.keys()) {
        inputs[`gradient ${group}`] = await toVector(packing, group, (leaf) => given.get(leaf)!);
        for (const [rate, value] of Object.entries(optimizer.rates(time, group))) {
          inputs[rateName(rate, group)] = tensor(Float32Array.of(value));
        }
      }
      await executable.run(inputs, { state: state.device });
      const found = await state.leaves();
      for (const [i, { name }] of golden.leaves.entries()) {
        const off = apart(await found.get(name)!.data() as Float32Array, after[at][i]);
        assert(off < 1e-6, `${name} after step ${at + 1} is off by ${off}`);
      }
    }
    // What is saved comes back.
    const saved = await state.read();
    assertEquals(
      new Map([...saved].map(([name, { shape }]) => [name, shape])),
      savedShapes({ packing, optimizer }),
    );
    using other = await openState(device, leaves, { packing, optimizer });
    await other.write(saved);
    for (const [name, value] of await other.read()) {
      assertEquals(await value.data(), await saved.get(name)!.data());
    }
  });
}

Deno.test("optimizers make of leaves the groups that they say", () => {
  const groups = (optimizer: Optimizer) => {
    const { packing } = packed(optimizer);
    return [...packing.leaves].map(([name, { group }]) => `${name}: ${group}`);
  };
  assertEquals(new Set(packed(adamW()).packing.groups.keys()), new Set([""]));
  assertEquals(groups(loraPlus({ loraplusLrRatio: 4 })), [
    "a0.embed.lora_embedding_A: embedding",
    "a0.embed.lora_embedding_B: embedding",
    "a0.lin.lora_A: A",
    "a0.lin.lora_B: B",
    "a0.param.lin.bias: B.plain",
    "a0.param.norm.weight: B.plain",
    "a0.param.norm.bias: B.plain",
    "a0.param.head.weight: A",
  ]);
});

Deno.test("leaves of a model find their modules", async () => {
  const base = await createModel({
    model_type: "gpt2",
    vocab_size: 12,
    n_embd: 8,
    n_layer: 1,
    n_head: 2,
    n_positions: 8,
  }, { device: "cpu" });
  using _device = base.device;
  const optimizer = loraPlus({ loraplusLrRatio: 4 });
  const groups = (model: AnyModel) =>
    [...packFor(optimizer, base, trainableLeaves(model)).leaves].map(([name, { group }]) =>
      `${name}: ${group}`
    );
  const config = loraConfig({
    r: 2,
    targetModules: ["wte", "c_attn"],
    modulesToSave: ["ln_f"],
    bias: "lora_only",
  });
  assertEquals(groups(getPeftModel(base, config)).sort(), [
    "a0.param.transformer.h.0.attn.c_attn.bias: B.plain",
    "a0.param.transformer.ln_f.bias: B.plain",
    "a0.param.transformer.ln_f.weight: B.plain",
    "a0.transformer.h.0.attn.c_attn.lora_A: A",
    "a0.transformer.h.0.attn.c_attn.lora_B: B",
    "a0.transformer.wte.lora_embedding_A: embedding",
    "a0.transformer.wte.lora_embedding_B: embedding",
  ]);
  assertEquals(groups(base).filter((line) => line.includes("ln_1.weight")), [
    "transformer.h.0.ln_1.weight: B.plain",
  ]);
});

Deno.test("settings that cannot be are refused", () => {
  for (
    const make of [
      () => adamW({ beta1: 1 }),
      () => adamW({ learningRate: 1 } as AdamWOptions),
      () => loraPlus({} as LoraPlusOptions),
      () => loraPlus({ loraplusLrRatio: 0 }),
      () => riemannian({ reg: 0 }),
      () => loraFa(scaled, { beta2: 1 }),
      () => loraPlus({ loraplusLrRatio: 2, weightDecay: 0 } as LoraPlusOptions),
    ]
  ) {
    assertEquals(assertThrows(make, ValueError).code, "OPTIMIZER_OPTION");
  }
});
