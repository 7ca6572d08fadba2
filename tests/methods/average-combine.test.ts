import { assert, assertEquals, assertThrows } from "@std/assert";
import { addAdapters, scaleAdapter } from "../../lib/adapters/combine/adapter-algebra.ts";
import { adaptedPaths, leavesAt } from "../../lib/adapters/parts.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import { addWeightedAdapter } from "../../lib/adapters/combine/weighted-adapter.ts";
import { UnsupportedError, ValueError } from "../../lib/errors.ts";
import { type Ia3Config, ia3Config } from "../../lib/methods/ia3.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { goldenBase } from "../adapters/bases.ts";
import { randomAdapters } from "../adapters/random-adapter.ts";

const V = "model.layers.0.self_attn.v_proj", K = "model.layers.1.self_attn.k_proj";
const DOWN = "model.layers.1.mlp.down_proj";

async function twoAdapters(): Promise<PeftModel> {
  return await randomAdapters(await goldenBase("llama"), {
    a: ia3Config({ targetModules: ["v_proj", "down_proj"], feedforwardModules: ["down_proj"] }),
    b: ia3Config({ targetModules: ["v_proj", "k_proj"], feedforwardModules: [] }),
  });
}

async function factors(model: PeftModel, name: string, path: string): Promise<Float32Array> {
  return await toFloat32(leavesAt(model.adapters.get(name)!, path)!.ia3_l);
}

function close(got: Float32Array, want: (i: number) => number): void {
  got.forEach((x, i) => assert(Math.abs(x - want(i)) < 1e-6, `${x} instead of ${want(i)}`));
}

Deno.test("factors are averaged, and where an adapter has none it counts as 1", async () => {
  const model = await twoAdapters();
  const combined = addWeightedAdapter(model, {
    adapters: ["a", "b"],
    weights: [1.25, -0.5],
    adapterName: "c",
  });
  const [av, bv] = [await factors(model, "a", V), await factors(model, "b", V)];
  const [down, bk] = [await factors(model, "a", DOWN), await factors(model, "b", K)];
  close(await factors(combined, "c", V), (i) => 1.25 * av[i] - 0.5 * bv[i]);
  close(await factors(combined, "c", DOWN), (i) => 1.25 * down[i] - 0.5);
  close(await factors(combined, "c", K), (i) => 1.25 - 0.5 * bk[i]);
  const { targetModules, feedforwardModules } = combined.adapters.get("c")!.config as Ia3Config;
  assertEquals([...targetModules!].sort(), ["down_proj", "k_proj", "v_proj"]);
  assertEquals(feedforwardModules, ["down_proj"]);
});

Deno.test("what adapters change is added up and scaled", async () => {
  const model = await twoAdapters();
  const [av, bv] = [await factors(model, "a", V), await factors(model, "b", V)];
  const sum = addAdapters(model, ["a", "b"], { as: "sum", weights: [2, -1] });
  close(await factors(sum, "sum", V), (i) => 1 + 2 * (av[i] - 1) - (bv[i] - 1));
  const down = await factors(model, "a", DOWN);
  close(await factors(sum, "sum", DOWN), (i) => 1 + 2 * (down[i] - 1));
  const half = scaleAdapter(model, "a", { factor: 0.5 });
  close(await factors(half, "a", V), (i) => 0.5 + 0.5 * av[i]);
  assertEquals(await factors(model, "a", V), av);
});

Deno.test("modules that only full paths tell apart are told apart", async () => {
  const base = await goldenBase("llama");
  const model = await randomAdapters(base, {
    a: ia3Config({ targetModules: [DOWN], feedforwardModules: [DOWN] }),
    b: ia3Config({
      targetModules: ["v_proj", "down_proj"],
      excludeModules: ["layers.1.mlp.down_proj"],
      feedforwardModules: ["down_proj"],
    }),
  });
  const combined = addWeightedAdapter(model, {
    adapters: ["b", "a"],
    weights: [0.5, 0.5],
    adapterName: "c",
  });
  const adapter = combined.adapters.get("c")!;
  assertEquals(adaptedPaths(adapter).filter((path) => path.endsWith("down_proj")).length, 2);
  assertEquals((adapter.config as Ia3Config).excludeModules, null);
  const down = await factors(model, "a", DOWN);
  close(await factors(combined, "c", DOWN), (i) => 0.5 + 0.5 * down[i]);
});

Deno.test("adapters that do not adapt a module alike are not combined", async () => {
  const base = await goldenBase("llama");
  const model = await randomAdapters(base, {
    a: ia3Config({ targetModules: ["down_proj"], feedforwardModules: ["down_proj"] }),
    b: ia3Config({ targetModules: ["down_proj"], feedforwardModules: [] }),
    c: ia3Config({ targetModules: ".*down_proj", feedforwardModules: [] }),
  });
  const options = { weights: [1, 1], adapterName: "d" };
  assertThrows(
    () => addWeightedAdapter(model, { ...options, adapters: ["a", "b"] }),
    ValueError,
    "do not adapt model.layers.0.mlp.down_proj alike",
  );
  assertThrows(
    () => addWeightedAdapter(model, { ...options, adapters: ["b", "c"] }),
    ValueError,
    "targetModules in the same way",
  );
  assertThrows(
    () => addWeightedAdapter(model, { ...options, adapters: ["a", "a"], combinationType: "svd" }),
    ValueError,
    "the combination types are linear",
  );
});

Deno.test("a method without a rule says so", async () => {
  const model = await twoAdapters();
  const a = model.adapters.get("a")!;
  const bare: PeftModel = {
    ...model,
    adapters: new Map([["a", { ...a, method: { ...a.method, combine: undefined } }]]),
  };
  assertThrows(
    () => scaleAdapter(bare, "a", { factor: 2 }),
    UnsupportedError,
    "IA3 cannot be scaled",
  );
});
