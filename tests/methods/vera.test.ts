import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves, withLeaves } from "../../lib/adapters/leaves.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import { planAdapter } from "../../lib/adapters/plan/plan.ts";
import { shapesOf } from "../../lib/adapters/plan/plan-targets.ts";
import { withAdapterScale } from "../../lib/adapters/scope.ts";
import { setAdapter } from "../../lib/adapters/select.ts";
import { ConfigError, UnsupportedError } from "../../lib/errors.ts";
import { ia3Config } from "../../lib/methods/ia3.ts";
import { defaultMethods, prefixOf } from "../../lib/methods/mod.ts";
import { fromPeftJson, toPeftJson } from "../../lib/methods/peft-json.ts";
import { mergeRule, ruleAt, runRule } from "../../lib/methods/site-rule.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import { vera, veraConfig } from "../../lib/methods/vera.ts";
import type { ForwardPass } from "../../lib/model/forward-pass.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import type { Site } from "../../lib/model/site.ts";
import { input } from "../../lib/ops/input.ts";
import { createGraph, type Value } from "../../lib/ops/value.ts";
import { programOf } from "../../lib/program/program.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { goldenBase } from "../adapters/bases.ts";
import { randomized } from "../adapters/randomized.ts";
import { testOnDevices } from "../devices.ts";
import { apart } from "../steps.ts";
import { makeLeaves } from "./make-leaves.ts";

Deno.test("a default config is PEFT's, with all its fields", () => {
  const text = toPeftJson(veraConfig());
  assertEquals(JSON.parse(text), {
    auto_mapping: null,
    base_model_name_or_path: null,
    bias: "none",
    d_initial: 0.1,
    fan_in_fan_out: false,
    inference_mode: true,
    init_weights: true,
    layers_pattern: null,
    layers_to_transform: null,
    modules_to_save: null,
    peft_type: "VERA",
    peft_version: "0.21.0",
    projection_prng_key: 0,
    r: 256,
    revision: null,
    save_projection: true,
    target_modules: null,
    task_type: null,
    vera_dropout: 0.0,
  });
  assertStringIncludes(text, '"vera_dropout": 0.0\n');
  assertStringIncludes(toPeftJson(veraConfig({ dInitial: 1 })), '"d_initial": 1.0,');
  assertEquals(fromPeftJson({ peft_type: "VERA", r: 3 }), veraConfig({ r: 3 }));
  const method = defaultMethods.get("VERA")!;
  assertEquals(method, vera);
  assertEquals([method.config.mixes ?? false, prefixOf(method)], [false, "vera_lambda_"]);
  assertEquals(vera.config.targets!.phi, ["q_proj", "v_proj"]);
});

Deno.test("unknown and ill-typed fields are named, with what was found", () => {
  const cases: [Record<string, unknown>, string[]][] = [
    [{ rank: 4 }, ['no field "rank"']],
    [{ exclude_modules: ["a"] }, ['no field "exclude_modules"']],
    [{ r: 0 }, ["The field r of a VERA config", "a whole number above 0", "found 0"]],
    [{ r: -2 }, ["found -2"]],
    [{ projection_prng_key: 1.5 }, ["projectionPrngKey (projection_prng_key in", "1.5"]],
    [{ projection_prng_key: null }, ["a whole number", "null"]],
    [{ save_projection: 1 }, ["saveProjection", "true or false"]],
    [{ vera_dropout: 1 }, ["veraDropout", "from 0 up to, not including, 1"]],
    [{ vera_dropout: -0.5 }, ["-0.5"]],
    [{ d_initial: "0.1" }, ["dInitial", "a number", '"0.1" (a string)']],
    [{ bias: "lora_only" }, ["none, all, vera_only", '"lora_only"']],
    [{ init_weights: "gaussian" }, ["initWeights", "true or false"]],
    [{ layers_pattern: "h" }, ["layersPattern", "layersToTransform"]],
    [{ target_modules: ".*q", layers_pattern: ["h"] }, ["layersToTransform"]],
  ];
  for (const [fields, parts] of cases) {
    const error = assertThrows(() => fromPeftJson({ peft_type: "VERA", ...fields }), ConfigError);
    for (const part of parts) assertStringIncludes(error.message, part, JSON.stringify(fields));
  }
  // Layers beside an expression are accepted, and do not matter.
  const config = veraConfig({ targetModules: ".*q_proj", layersToTransform: [1, 99] });
  assertEquals(config.layersToTransform, [1, 99]);
});

const site = (inFeatures: number, outFeatures: number, kind: Site["kind"] = "linear"): Site => ({
  path: `m.${inFeatures}.${outFeatures}`,
  kind,
  inFeatures,
  outFeatures,
  bias: false,
});

Deno.test("projections are as large as the largest layer needs, and follow from the key alone", async () => {
  const sites = [site(7, 3), site(4, 11)];
  const make = async (projectionPrngKey: number, of = sites) => {
    const config = veraConfig({ r: 5, projectionPrngKey });
    const rules = () => vera.leaves.adapter!({ config, model: {} as ModelGraph, sites: of });
    const random = createTorchRandom(1);
    const from = { random, weight: () => Promise.reject(new Error("not needed")) };
    const fixed = await makeLeaves(rules(), from), again = await makeLeaves(rules(), from);
    assertEquals(shapesOf(rules(), "trained"), {});
    const shapes = shapesOf(rules(), "fixed");
    assertEquals(Object.keys(fixed), ["vera_A", "vera_B"]);
    for (const [leaf, t] of Object.entries(fixed)) {
      assertEquals([t.shape, again[leaf].shape], [shapes[leaf], shapes[leaf]]);
      assertEquals(await toFloat32(again[leaf]), await toFloat32(t));
    }
    // Nothing is taken from the adapter's own random numbers.
    assertEquals(random.uniform(3), createTorchRandom(1).uniform(3));
    return [await toFloat32(fixed.vera_A), await toFloat32(fixed.vera_B)];
  };
  const [a, b] = await make(6);
  assertEquals([a.length, b.length], [5 * 7, 11 * 5]);
  assertEquals(await make(6), [a, b]);
  assertEquals(await make(6 + 2 ** 32), [a, b]);
  assert((await make(7)).every((other, i) => other.every((x, j) => x !== [a, b][i][j])));
  const bound = (features: number) => Math.sqrt(6 / features);
  for (const [values, features] of [[a, 7], [b, 5]] as const) {
    assert(values.every((x) => Math.abs(x) <= Math.fround(bound(features))));
    assert(Math.max(...values.map(Math.abs)) > 0.8 * bound(features));
  }
});

Deno.test("the hot path is two products, two factors and one addition; a slice only where it has to", () => {
  const config = veraConfig({ r: 3, veraDropout: 0.2 });
  const ops = (at: Site, scaled = false) => {
    const graph = createGraph();
    const value = (name: string, shape: readonly number[]) =>
      input(graph, name, { shape, dtype: "f32" });
    const rates: number[] = [];
    const rules = vera.leaves.site!({ config, model: {} as ModelGraph, site: at, sites: [at] });
    const { vera_lambda_b, vera_lambda_d } = shapesOf(rules, "trained");
    const rule = ruleAt({ method: vera, config }, at.kind)!;
    const trace = {
      pass: {
        dropout: (x: Value, rate: number) => (rates.push(rate), x),
      } as unknown as ForwardPass,
      site: at,
      config,
      leaves: {
        vera_lambda_b: value("b", vera_lambda_b),
        vera_lambda_d: value("d", vera_lambda_d),
      },
      shared: { vera_A: value("A", [3, 7]), vera_B: value("B", [5, 3]) },
      multiplier: scaled ? value("m", [1]) : 1,
    } as const;
    const x = value("x", [6, at.inFeatures]), result = value("y", [6, at.outFeatures]);
    const y = runRule(rule, trace, { x, result, base: (x) => x, weight: () => result });
    assertEquals(rates, [0.2]);
    const weight = value(
      "w",
      at.kind === "conv1d" ? [at.inFeatures, at.outFeatures] : [at.outFeatures, at.inFeatures],
    );
    assertEquals(mergeRule(rule, trace, { weight }).weight.shape, weight.shape);
    return programOf({ y }).nodes.filter((v) => v.op !== "input" && v.op !== "constant")
      .map((v) => v.op === "binary" ? `${v.attributes.fn}[${v.shape}]` : v.op);
  };
  const largest = ["matmul", "mul[6,3]", "matmul", "mul[6,5]", "add[6,5]"];
  assertEquals(ops(site(7, 5)), largest);
  assertEquals(ops(site(7, 5, "conv1d")), largest);
  assertEquals(ops(site(7, 5), true), [...largest.slice(0, 4), "mul[6,5]", "add[6,5]"]);
  assertEquals(ops(site(6, 4)).filter((op) => op === "slice").length, 2);
});

Deno.test("only the vectors are trained, and the projections are counted as fixed", async () => {
  const base = await goldenBase("llama");
  const config = veraConfig({ r: 6, targetModules: ["k_proj", "down_proj"] });
  const plan = planAdapter(base, config);
  assertEquals(plan.trainableParameters, 2 * (16 + 6 + 32 + 6));
  assertEquals(plan.frozenBytes, 4 * (6 * 56 + 32 * 6));
  const model = getPeftModel(base, config);
  const { parts } = model.adapters.get("default")!;
  const shared = Object.entries(parts.get("shared")!.leaves);
  assertEquals(shared.map(([name, { kind, key }]) => [name, kind, key]), [
    ["vera_A", "fixed", "base_model.vera_A"],
    ["vera_B", "fixed", "base_model.vera_B"],
  ]);
  const names = [...trainableLeaves(model).keys()];
  assertEquals(names.length, 8);
  assert(names.every((name) => /vera_lambda_[bd]$/.test(name)));
  const mixed = addAdapter(model, "other", ia3Config());
  assertThrows(() => setAdapter(mixed, ["default", "other"]), UnsupportedError, "VERA");
});

const INPUTS = { inputIds: [[5, 17, 53, 2, 41], [31, 9, 5, 58, 12]] };

testOnDevices("an adapter's scale multiplies what it adds, merged or not", async (device) => {
  for (const kind of ["llama", "gpt2"]) {
    const base = await goldenBase(kind, device);
    const config = veraConfig({ r: 5, dInitial: 0.7, targetModules: "all-linear" });
    const model = await randomized(getPeftModel(base, config), 8);
    const third = new Map(
      await Promise.all(
        [...trainableLeaves(model)].filter(([name]) => name.endsWith("_b")).map(
          async ([name, leaf]) => {
            const values = (await toFloat32(leaf)).map((x) => x * 0.3);
            return [name, tensor(values, { shape: leaf.shape })] as const;
          },
        ),
      ),
    );
    const logits = async (of: Parameters<typeof forward>[0]) =>
      await (await forward(of, INPUTS)).logits.data() as Float32Array;
    const want = await logits(withLeaves(model, third));
    const { value } = await withAdapterScale(model, 0.3, async (scaled) => [
      await logits(scaled),
      await logits(mergeAndUnload(scaled)),
    ]);
    for (const got of value) assert(apart(got, want) < 1e-5);
    assert(apart(await logits(model), want) > 1e-2);
  }
});
