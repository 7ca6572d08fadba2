import { assertEquals } from "@std/assert";
import { openAdapter } from "../../../lib/device/webgpu/adapter.ts";
import { createMemory } from "../../../lib/device/webgpu/memory.ts";
import { createPipelineCache } from "../../../lib/device/webgpu/pipelines.ts";
import { createTuner, UNTUNED } from "../../../lib/device/webgpu/tune.ts";
import { input } from "../../../lib/ops/input.ts";
import type { Kernel } from "../../../kernels/kernel.ts";
import { createSizes } from "../../../kernels/sizes.ts";
import { matmul } from "../../../lib/ops/matmul.ts";
import { createGraph, type Value } from "../../../lib/ops/value.ts";

/** A kernel that turns in circles and writes one element per workgroup. */
function busy(variant: string, turns: number, body = ""): Kernel {
  return {
    variant,
    dispatches: [{
      source: `
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  var x = a[id.x];
  for (var i = 0u; i < ${turns}u; i++) { x = x * 1.0001 + a[(id.x + i) % 1000u]; }
  ${body}
  output[id.x] = epilogue(x, id.x);
}`,
      sizes: createSizes(),
      bindings: [0, "output"],
      workgroups: [256, 1, 1],
      epilogue: true,
    }],
    temporaries: [64],
  };
}

function product(m: number): Value {
  const g = createGraph();
  const a = input(g, "a", { shape: [m, 1024], dtype: "f32" });
  return matmul(a, input(g, "b", { shape: [1024, 1024], dtype: "f32" }));
}

Deno.test("the variant that is measured to be fastest is taken for its whole shape class", async () => {
  const { gpu } = await openAdapter();
  const memory = createMemory(gpu);
  const tuner = createTuner(gpu, { memory, pipelines: createPipelineCache(gpu, memory) });
  const variants = [busy("slow", 20000), busy("broken", 1, "nothing();"), busy("fast", 20)];
  assertEquals((await tuner.choose(product(512), variants)).variant, "fast");
  const { pipelinesCreated, buffersCreated, bytes } = memory.report();
  assertEquals(bytes, 0);
  // A neighbouring size is not measured again; a variant that it lacks is replaced by the first.
  assertEquals((await tuner.choose(product(500), variants)).variant, "fast");
  assertEquals((await tuner.choose(product(500), variants.slice(0, 2))).variant, "slow");
  // Small products are not worth it.
  assertEquals((await tuner.choose(product(8), variants)).variant, "slow");
  assertEquals((await UNTUNED.choose(product(512), variants)).variant, "slow");
  const after = memory.report();
  assertEquals([after.pipelinesCreated, after.buffersCreated], [pipelinesCreated, buffersCreated]);
  gpu.destroy();
});
