import { assert, assertEquals, assertThrows } from "@std/assert";
import { UnsupportedError } from "../../../lib/errors.ts";
import type { Device } from "../../../lib/device/device.ts";
import { type LoraConfig, loraConfig, loraShape } from "../../../lib/methods/lora/lora-config.ts";
import { lora } from "../../../lib/methods/lora/lora.ts";
import type { LeafRule, SiteTrace } from "../../../lib/methods/method.ts";
import { mergeRule, ruleAt, runRule, type SiteRule } from "../../../lib/methods/site-rule.ts";
import { createTorchRandom } from "../../../lib/methods/torch-random.ts";
import type { Architecture } from "../../../lib/model/architecture.ts";
import type { Modules } from "../../../lib/model/modules.ts";
import { createForwardPass, type ForwardPass } from "../../../lib/model/forward-pass.ts";
import { createModelGraph, type ModelGraph } from "../../../lib/model/model-graph.ts";
import { parameterShapes, type Site } from "../../../lib/model/site.ts";
import { cast } from "../../../lib/ops/cast.ts";
import { dropoutMask } from "../../../lib/ops/dropout-mask.ts";
import { input } from "../../../lib/ops/input.ts";
import { createGraph, type Graph, type Value } from "../../../lib/ops/value.ts";
import { programOf } from "../../../lib/program/program.ts";
import { sizeOf } from "../../../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { testOnceOnWebGpu } from "../../devices.ts";

const IN = 7, OUT = 5, ROWS = 6, RATE = 0.3, MULTIPLIER = 0.6;

const VARIANTS: Readonly<Record<string, Partial<LoraConfig>>> = {
  plain: {},
  "rslora with a bias": { loraBias: true, useRslora: true },
  dora: { useDora: true },
  pissa: { initLoraWeights: "pissa" },
  "olora dora": { initLoraWeights: "olora", useDora: true },
};

const SITES: readonly Site[] = [
  { path: "l", kind: "linear", inFeatures: IN, outFeatures: OUT, bias: true },
  { path: "l", kind: "linear", inFeatures: IN, outFeatures: OUT, bias: false },
  { path: "c", kind: "conv1d", inFeatures: IN, outFeatures: OUT, bias: true },
  { path: "e", kind: "embedding", inFeatures: IN, outFeatures: OUT, bias: false },
];

function rulesOf(config: LoraConfig, site: Site): Readonly<Record<string, LeafRule>> {
  return lora.leaves.site!({ config, model: {} as ModelGraph, site, sites: [site] });
}

/** Shapes of all leaves, trained and fixed. */
function shapesOf(config: LoraConfig, site: Site): Readonly<Record<string, readonly number[]>> {
  return Object.fromEntries(
    Object.entries(rulesOf(config, site)).map(([leaf, { shape }]) => [leaf, shape]),
  );
}

function ruleOf(config: LoraConfig, site: Site): SiteRule<LoraConfig> {
  return ruleAt({ method: lora, config }, site.kind) as SiteRule<LoraConfig>;
}

for (const site of SITES) {
  for (const [name, fields] of Object.entries(VARIANTS)) {
    if (site.kind === "embedding" && fields.loraBias) continue;
    const config = loraConfig({ r: 3, loraAlpha: 4, loraDropout: RATE, ...fields });
    const what = `${name} on ${site.kind}${site.bias ? " with bias" : ""}`;

    testOnceOnWebGpu(
      `${what}: forward is the formula, with and without dropout`,
      async (device) => {
        for (const seed of [undefined, 5]) {
          const { y, mask, tensors } = await runSite(device, { site, config, seed });
          assertClose(y, reference({ site, config, tensors, mask }), `${what}, seed ${seed}`);
        }
      },
    );

    testOnceOnWebGpu(`${what}: merged is unmerged`, async (device) => {
      if (fields.loraBias && !site.bias) return;
      const { y } = await runSite(device, { site, config });
      const merged = await mergeSite(device, { site, config });
      assertClose((await runSite(device, { site, merged })).y, y, what);
    });
  }
}

Deno.test("a bias has to go somewhere to be merged", () => {
  const site: Site = { path: "l", kind: "linear", inFeatures: 2, outFeatures: 2, bias: false };
  const graph = createGraph();
  const value = (name: string, shape: number[]) => input(graph, name, { shape, dtype: "f32" });
  const config = loraConfig({ r: 1, loraBias: true });
  const trace: SiteTrace<LoraConfig> = {
    pass: {} as unknown as ForwardPass,
    site,
    config,
    shared: {},
    multiplier: 1,
    leaves: {
      lora_A: value("a", [1, 2]),
      lora_B: value("b", [2, 1]),
      lora_bias: value("c", [2]),
    },
  };
  assertThrows(
    () => mergeRule(ruleOf(config, site), trace, { weight: value("w", [2, 2]) }),
    UnsupportedError,
    "l, which has none",
  );
});

Deno.test("the hot path is two products, one scaling on the small side and one addition", () => {
  const site: Site = { path: "l", kind: "linear", inFeatures: IN, outFeatures: OUT, bias: false };
  const nodes = (config: LoraConfig) => {
    const graph = createGraph();
    const value = (name: string, shape: readonly number[]) =>
      input(graph, name, { shape, dtype: "f32" });
    const leaves = Object.fromEntries(
      Object.entries(shapesOf(config, site)).map(([name, shape]) => [name, value(name, shape)]),
    );
    const trace: SiteTrace<LoraConfig> = {
      pass: { dropout: (x: Value) => x } as unknown as ForwardPass,
      site,
      config,
      leaves,
      shared: {},
      multiplier: 1,
    };
    const y = runRule(ruleOf(config, site), trace, {
      x: value("x", [ROWS, IN]),
      result: value("y", [ROWS, OUT]),
      base: (x) => x,
      weight: () => value("w", [OUT, IN]),
    });
    return programOf({ y }).nodes.filter((v) => v.op !== "input" && v.op !== "constant")
      .map((v) => v.op === "binary" ? `${v.attributes.fn}[${v.shape}]` : v.op);
  };
  const two = ["matmul", `mul[${ROWS},3]`, "matmul", `add[${ROWS},${OUT}]`];
  assertEquals(nodes(loraConfig({ r: 3, loraAlpha: 4 })), two);
  assertEquals(
    nodes(loraConfig({ r: 3, loraAlpha: 3 })),
    two.filter((op) => !op.startsWith("mul[")),
  );
  const pissa = nodes(loraConfig({ r: 3, initLoraWeights: "pissa" }));
  assertEquals(pissa.filter((op) => op === "matmul").length, 2);
});

Deno.test("keys are PEFT's", () => {
  const [linear, , , embedding] = SITES;
  const keys = (site: Site, fields: Partial<LoraConfig>) =>
    Object.fromEntries(
      Object.entries(rulesOf(loraConfig({ r: 2, ...fields }), site))
        .map(([leaf, { key = leaf, kind }]) => [leaf, kind === "fixed" ? null : key]),
    );
  const factors = { lora_A: "lora_A.weight", lora_B: "lora_B.weight" };
  assertEquals(keys(linear, { loraBias: true }), { ...factors, lora_bias: "lora_B.bias" });
  assertEquals(keys(linear, { useDora: true, initLoraWeights: "pissa" }), {
    ...factors,
    lora_magnitude_vector: "lora_magnitude_vector",
    lora_A_init: null,
    lora_B_init: null,
  });
  assertEquals(keys(embedding, {}), {
    lora_embedding_A: "lora_embedding_A",
    lora_embedding_B: "lora_embedding_B",
  });
});

type Values = Readonly<Record<string, Float32Array>>;

/** Random contents for a site, its leaves and its input; the same for each call. */
function contents(site: Site, config?: LoraConfig): Readonly<Record<string, Tensor>> {
  const shapes = {
    x: [2, ROWS / 2, IN],
    ...parameterShapes(site),
    ...(config && shapesOf(config, site)),
  };
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape], i) => [
      name,
      tensor(createTorchRandom(i + 1).normal(sizeOf(shape)), { shape }),
    ]),
  );
}

const IDS = Int32Array.from({ length: ROWS }, (_, i) => (i * 4) % IN);

function modelOf(
  device: Device,
  site: Site,
  parameters: Readonly<Record<string, Tensor>>,
): ModelGraph {
  const architecture = {
    name: "one",
    modelTypes: ["one"],
    ignoredKeys: /$^/,
    bodyPath: "",
    heads: { FEATURE_EXTRACTION: null },
    body(m: Modules) {
      const sizes = { in: site.inFeatures, out: site.outFeatures };
      if (site.kind === "embedding") m.embedding(site.path, { rows: sizes.in, size: sizes.out });
      else {m.linear(site.path, sizes, {
          bias: site.bias,
          stored: site.kind === "conv1d" ? "in-out" : "out-in",
        });}
    },
  } as unknown as Architecture;
  return createModelGraph(architecture, {
    config: { model_type: "one" },
    device,
    parameters: new Map(
      Object.keys(parameterShapes(site)).map((name) => [`${site.path}.${name}`, parameters[name]]),
    ),
  });
}

function passOf(graph: Graph, model: ModelGraph, options: {
  readonly seed?: Value;
  readonly site?: (
    trace: Omit<SiteTrace<LoraConfig>, "config" | "leaves">,
    x: Value,
    result: Value,
  ) => Value;
}): ForwardPass {
  const unused = input(graph, "unused", { shape: [1], dtype: "i32" });
  return createForwardPass(graph, model, {
    seed: options.seed,
    querySegments: unused,
    keySegments: unused,
    offset: unused,
    adaptation: options.site && {
      site: (pass, site, x) =>
        options.site!({ pass, site, shared: {}, multiplier: asked(pass) }, x, pass.base(site, x)),
    },
  });
}

/** The caller's factor, which is data of the program. */
function asked(pass: ForwardPass): Value {
  return pass.leaf("multiplier", tensor(Float32Array.of(MULTIPLIER)));
}

function leavesOf(pass: ForwardPass, site: Site, config: LoraConfig): Record<string, Value> {
  const tensors = contents(site, config);
  return Object.fromEntries(
    Object.keys(rulesOf(config, site)).map((name) => [name, pass.leaf(name, tensors[name])]),
  );
}

/** Runs a site with an adapter, or with merged weights. */
async function runSite(device: Device, options: {
  readonly site: Site;
  readonly config?: LoraConfig;
  readonly seed?: number;
  readonly merged?: Readonly<Record<string, Tensor>>;
}): Promise<{ y: Float32Array; mask: Float32Array; tensors: Values }> {
  const { site, config, seed, merged } = options;
  const tensors = contents(site, config);
  const graph = createGraph();
  const training = seed !== undefined;
  const seedValue = training ? input(graph, "seed", { shape: [1], dtype: "i32" }) : undefined;
  const pass = passOf(graph, modelOf(device, site, merged ?? tensors), {
    seed: seedValue,
    site: config && ((given, x, result) => {
      const trace = { ...given, config, leaves: leavesOf(given.pass, site, config) };
      return runRule(ruleOf(config, site), trace, {
        x,
        result,
        base: (v) => v,
        weight: () => result,
      });
    }),
  });
  const ids = site.kind === "embedding";
  const x = input(graph, "x", {
    shape: ids ? [2, ROWS / 2] : tensors.x.shape,
    dtype: ids ? "i32" : "f32",
  });
  const outputs: Record<string, Value> = { y: pass.site(site.path, x) };
  // The first mask of a pass is that of stream 0, so this is the same node.
  if (seedValue && !ids) {
    outputs.mask = dropoutMask(graph, x.shape, { seed: seedValue, rate: RATE, stream: 0 });
  }
  const executable = await device.compile(programOf(outputs));
  const found = await executable.run({
    x: ids ? tensor(IDS, { shape: x.shape }) : tensors.x,
    ...Object.fromEntries(pass.bindings),
    ...(seedValue && !ids ? { seed: tensor(Int32Array.of(seed!)) } : {}),
  });
  const values = async (t: Tensor) => Float32Array.from(await t.data() as Float32Array);
  const contentsByName: Record<string, Float32Array> = {};
  for (const [name, t] of Object.entries(tensors)) contentsByName[name] = await values(t);
  return {
    y: await values(found.y),
    mask: found.mask ? await values(found.mask) : new Float32Array(ROWS * IN).fill(1),
    tensors: contentsByName,
  };
}

async function mergeSite(
  device: Device,
  { site, config }: { readonly site: Site; readonly config: LoraConfig },
): Promise<Readonly<Record<string, Tensor>>> {
  const graph = createGraph();
  const pass = passOf(graph, modelOf(device, site, contents(site, config)), {});
  const stored = (name: string) => cast(pass.weight(`${site.path}.${name}`).plain!, "f32");
  const trace: SiteTrace<LoraConfig> = {
    pass,
    site,
    config,
    shared: {},
    multiplier: asked(pass),
    leaves: leavesOf(pass, site, config),
  };
  const merged = mergeRule(ruleOf(config, site), trace, {
    weight: stored("weight"),
    ...(site.bias ? { bias: stored("bias") } : {}),
  });
  const executable = await device.compile(
    programOf({ weight: merged.weight, ...(merged.bias ? { bias: merged.bias } : {}) }),
  );
  return await executable.run(Object.fromEntries(pass.bindings));
}

/**
 * The output as PEFT's layers define it, in 64-bit floats: with W′ = W − s·B₀·A₀ the base that PiSSA and OLoRA leave,
 * LoRA is W′x + s·BA·drop(x) + s·c + b, and DoRA W′x + b + (f − 1)·W′·drop(x) + f·s·BA·drop(x) with f = m / ‖W′ + s·BA‖.
 */
function reference({ site, config, tensors: t, mask }: {
  readonly site: Site;
  readonly config: LoraConfig;
  readonly tensors: Values;
  readonly mask: Float32Array;
}): Float32Array {
  const s = loraShape(config, site).scale * MULTIPLIER;
  const embedding = site.kind === "embedding";
  const low = (b: Float32Array, a: Float32Array, o: number, i: number) => {
    const r = a.length / IN;
    let sum = 0;
    for (let k = 0; k < r; k++) sum += b[o * r + k] * a[k * IN + i];
    return s * sum;
  };
  const [a, b] = embedding ? [t.lora_embedding_A, t.lora_embedding_B] : [t.lora_A, t.lora_B];
  const out = new Float32Array(ROWS * OUT);
  for (let o = 0; o < OUT; o++) {
    const base: number[] = [], update: number[] = [];
    let squares = 0;
    for (let i = 0; i < IN; i++) {
      const w = t.weight[site.kind === "linear" ? o * IN + i : i * OUT + o];
      base.push(w - (t.lora_A_init ? low(t.lora_B_init, t.lora_A_init, o, i) : 0));
      update.push(low(b, a, o, i));
      squares += (base[i] + update[i]) ** 2;
    }
    const f = config.useDora ? t.lora_magnitude_vector[o] / Math.sqrt(squares) : 1;
    const constant = (t.bias?.[o] ?? 0) + (config.loraBias ? s * t.lora_bias[o] : 0);
    for (let row = 0; row < ROWS; row++) {
      let y = constant;
      for (let i = 0; i < IN; i++) {
        const x = embedding ? Number(IDS[row] === i) : t.x[row * IN + i];
        const dropped = embedding ? x : x * mask[row * IN + i];
        y += base[i] * x + (f - 1) * base[i] * dropped + f * update[i] * dropped;
      }
      out[row * OUT + o] = y;
    }
  }
  return out;
}

function assertClose(actual: Float32Array, expected: Float32Array, what: string): void {
  assertEquals(actual.length, expected.length, what);
  const largest = expected.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
  const worst = expected.reduce((m, x, i) => Math.max(m, Math.abs(x - actual[i])), 0);
  assert(largest > 0.1 && worst <= 3e-6 * largest, `${what}: differs by ${worst} of ${largest}`);
}
