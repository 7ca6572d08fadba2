import { assert, assertEquals, assertLess, assertRejects, assertThrows } from "@std/assert";
import { shapesOf } from "../../../lib/adapters/plan/plan-targets.ts";
import { ConfigError } from "../../../lib/errors.ts";
import { openSafetensors, type SafetensorsFile } from "../../../lib/io/safetensors.ts";
import { fromPeftJson } from "../../../lib/methods/peft-json.ts";
import { type LoraConfig, loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { lora } from "../../../lib/methods/lora/lora.ts";
import type { InitSource, Leaves } from "../../../lib/methods/method.ts";
import { createTorchRandom, type TorchRandom } from "../../../lib/methods/torch-random.ts";
import type { ModelGraph } from "../../../lib/model/model-graph.ts";
import type { Site, SiteKind } from "../../../lib/model/site.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import type { Tensor } from "../../../lib/tensor/tensor.ts";
import { type LeafRules, makeLeaves, ofKind } from "../make-leaves.ts";

const GOLDEN = new URL("../../golden/", import.meta.url);

const index = JSON.parse(await Deno.readTextFile(new URL("init.json", GOLDEN)));

for (const [name, { kind, seed, config, order, next_uniform }] of Object.entries<Recorded>(index)) {
  Deno.test(`init ${name}: the leaves and the numbers taken are PEFT's`, async () => {
    const base = await openSafetensors(new URL(`base/${kind}/model.safetensors`, GOLDEN));
    const expected = await openSafetensors(new URL(`init/${name}.safetensors`, GOLDEN));
    const random = createTorchRandom(seed);
    const found = new Set<string>();
    for (const path of order) {
      const context = contextOf(base, { path, random, config: fromJson(config) });
      const { trained } = await init(context);
      for (const [leaf, tensor] of Object.entries(trained)) {
        const key = parameterName(path, leaf);
        found.add(key);
        await assertClose(tensor, expected.tensors.get(key)!, key);
      }
    }
    assertEquals([...found].sort(), [...expected.tensors.keys()].sort());
    assertEquals(random.uniform(1)[0], next_uniform);
  });
}

/** How far torch's own singular vectors, in 32-bit floats, are from the exact ones of these weights. */
const SVD_TOLERANCE = 1.2e-5;

const KEPT = [
  "init_pissa",
  "init_pissa_gpt2_rslora",
  "init_pissa_niter",
  "init_pissa_niter_16",
  "init_olora",
  "init_olora_wide",
  "init_orthogonal",
  "init_orthogonal_gpt2",
  "dora_pissa",
];

for (const name of KEPT) {
  Deno.test(`${name}: initial factors and what is left of the base are PEFT's`, async () => {
    const folder = new URL(`lora/${name}/`, GOLDEN);
    const read = async (file: string) => JSON.parse(await Deno.readTextFile(new URL(file, folder)));
    const { kind, seed } = await read("case.json");
    const config = fromPeftJson(await read("adapter_config.json")) as LoraConfig;
    const base = await openSafetensors(new URL(`base/${kind}/model.safetensors`, GOLDEN));
    const expected = await openSafetensors(new URL("expected.safetensors", folder));
    const a = /^init\.base_model\.model\.(.*)\.lora_A\.default\.weight$/;
    const paths = [...base.tensors.keys()].map((key) => key.replace(/\.weight$/, ""))
      .filter((path) => expected.tensors.has(`init.${parameterName(path, "lora_A")}`))
      .sort(inModelOrder);
    assertEquals(paths.length, [...expected.tensors.keys()].filter((key) => a.test(key)).length);
    const random = createTorchRandom(seed), again = createTorchRandom(seed);
    let taken = 0;
    for (const path of paths) {
      const context = contextOf(base, { path, random, config });
      const made = await init(context);
      await assertSameProduct(made, { expected, path, exact: /olora|orthogonal/.test(name) });
      for (const leaf of Object.keys(made.trained).filter((l) => l === "lora_magnitude_vector")) {
        const key = `init.${parameterName(path, leaf)}`;
        await assertClose(made.trained[leaf], expected.tensors.get(key)!, key);
      }
      const { fixed: remade } = await init({ ...context, random: again });
      assertEquals(Object.keys(remade), Object.keys(made.fixed));
      for (const [leaf, tensor] of Object.entries(remade)) {
        assertEquals(await tensor.data(), await made.fixed[leaf].data());
        assertEquals(tensor.shape, shapesOf(rulesOf(config, context.site), "fixed")[leaf]);
      }
      const residual = expected.tensors.get(`residual.${path}.weight`);
      assertEquals(residual !== undefined, Object.keys(made.fixed).length > 0);
      if (!residual) continue;
      taken++;
      const { lora_A_init: a0, lora_B_init: b0 } = made.fixed;
      const scale = config.loraAlpha / (config.useRslora ? Math.sqrt(config.r) : config.r);
      const part = await product(b0, a0);
      const weight = await context.weight();
      const left = weight.map((w, i) => w - scale * part[i]);
      const stored = context.site.kind === "conv1d"
        ? transpose(left, weightShape(context.site))
        : left;
      assertNear(stored, await toFloat32(residual), { tolerance: SVD_TOLERANCE, what: path });
    }
    assertEquals(taken > 0, !name.includes("orthogonal"));
  });
}

Deno.test("a decomposition has no more columns than the weight", async () => {
  const site: Site = { path: "m", kind: "linear", inFeatures: 7, outFeatures: 5, bias: false };
  for (const initLoraWeights of ["pissa", "olora", "pissa_niter_2"] as const) {
    const config = loraConfig({ r: 9, loraAlpha: 3, initLoraWeights });
    assertEquals(shapesOf(rulesOf(config, site), "trained"), { lora_A: [5, 7], lora_B: [5, 5] });
    const weight = createTorchRandom(3).normal(35);
    const random = createTorchRandom(0);
    const { fixed } = await init({ site, config, random, weight: () => Promise.resolve(weight) });
    const all = await product(fixed.lora_B_init, fixed.lora_A_init);
    const factor = initLoraWeights === "olora" ? 1 : 3 / 9;
    assertNear(all.map((x) => factor * x), weight, { tolerance: 1e-5, what: initLoraWeights });
  }
});

Deno.test("a scale that is not above 0 suits OLoRA, and not PiSSA, which takes its root", async () => {
  const site: Site = { path: "m", kind: "linear", inFeatures: 7, outFeatures: 5, bias: false };
  const weight = createTorchRandom(3).normal(35);
  const start = (config: LoraConfig) =>
    init({
      site,
      config,
      random: createTorchRandom(0),
      weight: () => Promise.resolve(weight),
    });
  const olora = await start(loraConfig({ r: 5, loraAlpha: -2, initLoraWeights: "olora" }));
  const all = await product(olora.fixed.lora_B_init, olora.fixed.lora_A_init);
  assertNear(all, weight, { tolerance: 1e-5, what: "olora" });
  const pissa = loraConfig({ r: 5, loraAlpha: -2, initLoraWeights: "pissa" });
  await assertRejects(() => start(pissa), ConfigError, "loraAlpha above 0");
});

Deno.test("what a site cannot have is refused when shapes are asked for", () => {
  const linear: Site = { path: "a.q", kind: "linear", inFeatures: 4, outFeatures: 6, bias: true };
  const table: Site = { ...linear, path: "wte", kind: "embedding" };
  const odd = loraConfig({ r: 4, initLoraWeights: "orthogonal", rankPattern: { q: 3 } });
  assertThrows(() => rulesOf(odd, linear), ConfigError, "even, got 3 instead for a.q");
  assertEquals(rulesOf(odd, { ...linear, path: "a.k" }).lora_A.shape, [4, 4]);
  const biased = loraConfig({ loraBias: true });
  assertThrows(() => rulesOf(biased, table), ConfigError, "loraBias is not supported");
  assertEquals(rulesOf(biased, linear).lora_bias.shape, [6]);
});

Deno.test("210 sites of a 135M llama start in well under a second", async () => {
  const config = loraConfig({ r: 8, useRslora: true });
  const random = createTorchRandom(0);
  const site = (inFeatures: number, outFeatures: number): Site => ({
    path: "x",
    kind: "linear",
    inFeatures,
    outFeatures,
    bias: false,
  });
  const layer = [
    ...[[576, 576], [576, 192], [576, 192], [576, 576]],
    ...[[576, 1536], [576, 1536], [1536, 576]],
  ].map(([i, o]) => site(i, o));
  const begin = performance.now();
  for (let i = 0; i < 30; i++) {
    for (const s of layer) {
      await init({
        site: s,
        config,
        random,
        weight: () => Promise.reject(new Error("plain LoRA does not need the weight")),
      });
    }
  }
  assertLess(performance.now() - begin, 900);
});

interface Recorded {
  readonly kind: string;
  readonly seed: number;
  readonly config: Record<string, unknown>;
  readonly order: readonly string[];
  readonly next_uniform: number;
}

function fromJson(settings: Record<string, unknown>): LoraConfig {
  return fromPeftJson({ peft_type: "LORA", ...settings }) as LoraConfig;
}

/** What an adapter starts from at a site. */
interface Start extends InitSource {
  readonly site: Site;
  readonly config: LoraConfig;
}

function rulesOf(config: LoraConfig, site: Site): LeafRules {
  return lora.leaves.site!({ config, model: {} as ModelGraph, site, sites: [site] });
}

/** Trained and fixed leaves of a site. */
async function init(
  { site, config, ...from }: Start,
): Promise<{ readonly trained: Leaves; readonly fixed: Leaves }> {
  const rules = rulesOf(config, site), made = await makeLeaves(rules, from);
  return { trained: ofKind(rules, made, "trained"), fixed: ofKind(rules, made, "fixed") };
}

function contextOf(
  base: SafetensorsFile,
  { path, random, config }: { path: string; random: TorchRandom; config: LoraConfig },
): Start {
  const stored = base.tensors.get(`${path}.weight`)!;
  const kind: SiteKind = /embed|wte|wpe/.test(path)
    ? "embedding"
    : /c_(attn|proj|fc)$/.test(path)
    ? "conv1d"
    : "linear";
  const [first, second] = stored.shape;
  const [inFeatures, outFeatures] = kind === "linear" ? [second, first] : [first, second];
  const bias = base.tensors.has(`${path}.bias`);
  return {
    site: { path, kind, inFeatures, outFeatures, bias },
    config,
    random,
    weight: async () => {
      const values = await toFloat32(stored);
      return kind === "conv1d" ? transpose(values, stored.shape) : values;
    },
  };
}

/** The name of a leaf's parameter in a live PEFT model. */
function parameterName(path: string, leaf: string): string {
  const live: Record<string, string> = {
    lora_A: "lora_A.default.weight",
    lora_B: "lora_B.default.weight",
    lora_bias: "lora_B.default.bias",
    lora_embedding_A: "lora_embedding_A.default",
    lora_embedding_B: "lora_embedding_B.default",
    lora_magnitude_vector: "lora_magnitude_vector.default.weight",
  };
  return `base_model.model.${path}.${live[leaf]}`;
}

const ORDER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "attn"];

function inModelOrder(a: string, b: string): number {
  const layer = (path: string) => Number(/\.(\d+)\./.exec(path)?.[1]);
  const rank = (path: string) => ORDER.findIndex((part) => path.includes(part));
  return layer(a) - layer(b) || rank(a) - rank(b);
}

/** Factors agree: in themselves, or, as singular vectors have no sign of their own, in their product. */
async function assertSameProduct(
  { trained }: { readonly trained: Leaves },
  { expected, path, exact }: { expected: SafetensorsFile; path: string; exact: boolean },
): Promise<void> {
  const [a, b] = ["lora_A", "lora_B"].map((leaf) => {
    const tensor = expected.tensors.get(`init.${parameterName(path, leaf)}`)!;
    assertEquals(trained[leaf].shape, tensor.shape);
    return tensor;
  });
  if (exact) {
    await assertClose(trained.lora_A, a, `${path} A`);
    await assertClose(trained.lora_B, b, `${path} B`);
    return;
  }
  assertNear(await product(trained.lora_B, trained.lora_A), await product(b, a), {
    tolerance: SVD_TOLERANCE,
    what: path,
  });
}

async function product(b: Tensor, a: Tensor): Promise<Float32Array> {
  const [rows, k] = b.shape, columns = a.shape[1];
  const x = await toFloat32(b), y = await toFloat32(a);
  return Float32Array.from({ length: rows * columns }, (_, i) => {
    let sum = 0;
    for (let p = 0; p < k; p++) {
      sum += x[Math.floor(i / columns) * k + p] * y[p * columns + i % columns];
    }
    return sum;
  });
}

function weightShape({ inFeatures, outFeatures }: Site): readonly number[] {
  return [outFeatures, inFeatures];
}

function transpose(values: Float32Array, [rows, columns]: readonly number[]): Float32Array {
  return Float32Array.from(
    values,
    (_, i) => values[(i % rows) * columns + Math.floor(i / rows)],
  );
}

async function assertClose(actual: Tensor, expected: Tensor, what: string): Promise<void> {
  assertEquals(actual.shape, expected.shape, what);
  assertNear(await toFloat32(actual), await toFloat32(expected), { tolerance: 2e-6, what });
}

/** Every element within a share of the largest one. */
function assertNear(
  actual: Float32Array,
  expected: Float32Array,
  { tolerance, what }: { tolerance: number; what: string },
): void {
  assertEquals(actual.length, expected.length, what);
  const size = expected.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
  const worst = expected.reduce((m, x, i) => Math.max(m, Math.abs(x - actual[i])), 0);
  assert(worst <= tolerance * size, `${what}: differs by ${worst} of ${size}`);
}
