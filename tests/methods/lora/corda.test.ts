import { assert, assertEquals, assertLess, assertStringIncludes, assertThrows } from "@std/assert";
import { ConfigError, GraftError, ValueError } from "../../../lib/errors.ts";
import { checkCalibration } from "../../../lib/methods/calibration.ts";
import {
  CORDA,
  cordaEigens,
  cordaFactors,
  dampedCovariance,
} from "../../../lib/methods/lora/corda.ts";
import {
  type FlatMatrix,
  flatMatrix,
  leadingSvd,
  matrixProduct,
  rowProducts,
  trailingSvd,
  transposed,
} from "../../../lib/methods/linalg.ts";
import { type LoraConfig, loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { fromPeftJson, toPeftJson } from "../../../lib/methods/peft-json.ts";
import { createTorchRandom } from "../../../lib/methods/torch-random.ts";
import type { Site } from "../../../lib/model/site.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { tensor } from "../../../lib/tensor/tensor.ts";
import index from "../../golden/corda/corda.json" with { type: "json" };

function random(rows: number, columns: number, seed: number): FlatMatrix {
  return flatMatrix(createTorchRandom(seed).normal(rows * columns), { rows, columns });
}

function siteOf(outFeatures: number, inFeatures: number): Site {
  return { path: "layers.0.q_proj", kind: "linear", inFeatures, outFeatures, bias: false };
}

/** The mean of XᵀX of this many rows, and what it becomes so that it can be inverted. */
function covarianceOf(n: number, rows: number, seed: number): FlatMatrix {
  const columns = transposed(random(rows, n, seed));
  const { data } = rowProducts(columns, columns);
  return { rows: n, columns: n, data: data.map((x) => x / rows) };
}

function size({ data }: FlatMatrix): number {
  return Math.hypot(...data);
}

function difference(a: FlatMatrix, b: FlatMatrix): FlatMatrix {
  assertEquals([a.rows, a.columns], [b.rows, b.columns]);
  return { ...a, data: a.data.map((x, i) => x - b.data[i]) };
}

/** scale · B · A */
async function part(
  layer: { readonly site: Site; readonly weight: FlatMatrix; readonly covariance: FlatMatrix },
  options: { readonly r: number; readonly method: "ipm" | "kpm"; readonly scale?: number },
): Promise<FlatMatrix> {
  const { scale = 1.75 } = options;
  const { a, b } = await cordaFactors(cordaEigens(layer, options), { site: layer.site, scale });
  const product = matrixProduct(b, a);
  return { ...product, data: product.data.map((x) => scale * x) };
}

Deno.test("of all parts of its rank, ipm takes the one that the inputs miss most, kpm least", async () => {
  for (const [rows, columns] of [[11, 7], [6, 13], [9, 9]]) {
    const site = siteOf(rows, columns), weight = random(rows, columns, 3);
    const covariance = dampedCovariance(covarianceOf(columns, 40, 4), site.path);
    const most = Math.min(rows, columns);
    const all = leadingSvd(matrixProduct(weight, covariance), most);
    for (const method of ["ipm", "kpm"] as const) {
      for (const r of [1, 3, most]) {
        const taken = await part({ site, weight, covariance }, { r, method });
        // On the inputs, what is taken and what is left are those of the decomposition of W·C.
        const s = [...all.s];
        const [own, rest] = method === "ipm"
          ? [s.slice(0, r), s.slice(r)]
          : [s.slice(most - r), s.slice(0, most - r)];
        const left = difference(weight, taken);
        const bound = 2e-6 * all.s[0];
        assertLess(Math.abs(size(matrixProduct(taken, covariance)) - Math.hypot(...own)), bound);
        assertLess(Math.abs(size(matrixProduct(left, covariance)) - Math.hypot(...rest)), bound);
      }
    }
    // The two ways share the weight out.
    const large = await part({ site, weight, covariance }, { r: 2, method: "ipm" });
    const small = await part({ site, weight, covariance }, { r: most - 2, method: "kpm" });
    assertLess(size(difference(difference(weight, large), small)), 3e-6 * size(weight));
  }
});

Deno.test("a part does not depend on the scale, whose root goes into each factor", async () => {
  const site = siteOf(5, 8), weight = random(5, 8, 1);
  const covariance = dampedCovariance(covarianceOf(8, 20, 2), site.path);
  const eigens = cordaEigens({ site, weight, covariance }, { r: 2, method: "ipm" });
  const small = await cordaFactors(eigens, { site, scale: 0.25 });
  const large = await cordaFactors(eigens, { site, scale: 4 });
  assertEquals([small.a.rows, small.a.columns], [2, 8]);
  assertEquals([small.b.rows, small.b.columns], [5, 2]);
  for (const factor of ["a", "b"] as const) {
    small[factor].data.forEach((x, i) =>
      assertLess(Math.abs(x - 4 * large[factor].data[i]), 1e-12)
    );
  }
});

Deno.test("directions that a weight does not have are left empty", async () => {
  const site = siteOf(6, 9);
  const weight = matrixProduct(random(6, 2, 5), random(2, 9, 6));
  const covariance = dampedCovariance(covarianceOf(9, 30, 7), site.path);
  const eigens = cordaEigens({ site, weight, covariance }, { r: 3, method: "kpm" });
  const [s, v] = [await toFloat32(eigens.S_WC), await toFloat32(eigens.V_WC)];
  assert(s.every((x) => x < 1e-6 * size(weight)));
  assert(v.every(Number.isFinite));
  const taken = await part({ site, weight, covariance }, { r: 3, method: "kpm" });
  assertLess(size(taken), 1e-6 * size(weight));
});

Deno.test("the smallest singular values are the last of all", () => {
  for (const [rows, columns] of [[7, 7], [5, 12], [12, 5]]) {
    const a = random(rows, columns, 9), most = Math.min(rows, columns);
    const all = leadingSvd(a, most);
    for (const r of [1, 4, most]) {
      const { u, s, v } = trailingSvd(a, r);
      assertEquals([u.rows, u.columns, v.rows, v.columns], [r, rows, r, columns]);
      for (let i = 0; i < r; i++) {
        assertLess(Math.abs(s[i] - all.s[most - r + i]), 1e-12 * all.s[0]);
      }
      const rebuilt = matrixProduct(
        transposed({ ...u, data: u.data.map((x, i) => x * s[Math.floor(i / rows)]) }),
        v,
      );
      // What is left is at right angles to it.
      const left = size(difference(a, rebuilt));
      assertLess(Math.abs(left ** 2 - (size(a) ** 2 - size(rebuilt) ** 2)), 1e-10 * size(a) ** 2);
    }
  }
});

Deno.test("a hundredth of the mean variance is added, more only where that does not do", () => {
  const n = 4;
  const covariance = covarianceOf(n, 2, 8);
  const mean = [0, 1, 2, 3].reduce((sum, i) => sum + covariance.data[i * n + i], 0) / n;
  const fixed = dampedCovariance(covariance, "x");
  for (let i = 0; i < n * n; i++) {
    const added = i % (n + 1) ? 0 : 0.01 * mean;
    assertLess(Math.abs(fixed.data[i] - covariance.data[i] - added), 1e-12);
  }
  // Not a covariance of anything, but symmetric: its smallest eigenvalue is −0.3, its mean variance
  // 1, so that 0.01·2⁵ is the first share above.
  const odd = Float64Array.of(1, 1.3, 1.3, 1);
  const { data } = dampedCovariance({ rows: 2, columns: 2, data: odd }, "x");
  assertLess(Math.abs(data[0] - 1.32), 1e-12);
  for (const bad of [[0, 0, 0, 0], [1, NaN, NaN, 1], [1, Infinity, Infinity, 1], [-1, 0, 0, -2]]) {
    const made = flatMatrix(bad, { rows: 2, columns: 2 });
    const error = assertThrows(() => dampedCovariance(made, "layers.1.up"), ValueError);
    assertEquals(error.code, "CALIBRATION_COVARIANCE");
    assertStringIncludes(error.message, "layers.1.up");
  }
});

Deno.test("configs are read and written as PEFT does it", () => {
  for (const { config, corda_config } of index.configs) {
    const read = fromPeftJson({ peft_type: "LORA", ...config }) as LoraConfig;
    assertEquals(JSON.parse(toPeftJson(read)).corda_config, corda_config);
    // What PEFT wrote, and what is written from it.
    const again = fromPeftJson({ peft_type: "LORA", ...config, corda_config });
    assertEquals(again, read);
    assertEquals(fromPeftJson(JSON.parse(toPeftJson(read))), { ...read, inferenceMode: true });
  }
  assertEquals(loraConfig({ initLoraWeights: "corda" }).cordaConfig, {
    cacheFile: null,
    covarianceFile: null,
    cordaMethod: "ipm",
    verbose: false,
    useFloat16ForCovariance: false,
    pruneTemporaryFields: true,
  });
  assertEquals(loraConfig().cordaConfig, null);
  const cordaConfig = { cordaMethod: "kpm", useFloat16ForCovariance: true } as const;
  const config = loraConfig({ initLoraWeights: "corda", cordaConfig });
  assertEquals(config.cordaConfig!.cacheFile, null);
  assertEquals(loraConfig({ ...config, r: 3 }).cordaConfig, config.cordaConfig);
  const bad: [unknown, string][] = [
    [{ cordaMethod: "foo" }, "ipm, kpm"],
    [{ corda_method: "kpm" }, "cordaMethod"],
    [{ verbose: 1 }, "true or false"],
    [{ cacheFile: "" }, "a path or null"],
    [3, "an object with cacheFile"],
    [[], "an object with cacheFile"],
  ];
  for (const [cordaConfig, part] of bad) {
    const fields = { initLoraWeights: "corda", cordaConfig } as never;
    assertStringIncludes(assertThrows(() => loraConfig(fields), ConfigError).message, part);
  }
  for (
    const fields of [
      { initLoraWeights: "CORDA" },
      { initLoraWeights: "corda_niter_2" },
      { initLoraWeights: "corda", loraBias: true },
    ]
  ) assertThrows(() => loraConfig(fields as never), ConfigError);
  const json = { peft_type: "LORA", init_lora_weights: "corda", corda_config: { corda_metod: 1 } };
  assertThrows(() => fromPeftJson(json), ConfigError, "corda_config");
});

Deno.test("a calibration that does not fit is refused", () => {
  const site = siteOf(5, 8);
  const parts = {
    S_WC: tensor(new Float32Array(2)),
    U_WC: tensor(new Float32Array(10), { shape: [5, 2] }),
    V_WC: tensor(new Float32Array(16), { shape: [8, 2] }),
  };
  const good = { init: "corda", sites: new Map([[site.path, parts]]) } as const;
  const check = (calibration: unknown, r = 2, loaded = false) => () =>
    checkCalibration(CORDA, [{ site, r }], { calibration: calibration as never, loaded });
  check(good)();
  const { V_WC: _, ...two } = parts;
  const cases: [() => void, string, string][] = [
    [check(undefined), "CALIBRATION_MISSING", "preprocessCorda(base, config, { batches })"],
    [check(undefined, 2, true), "CALIBRATION_MISSING", "initialCalibration"],
    [check(null), "CALIBRATION", "found null"],
    [check(Promise.resolve(good)), "CALIBRATION", "awaited"],
    [check({ ...good, init: "eva" }), "CALIBRATION", '"eva"'],
    [check({ ...good, sites: {} }), "CALIBRATION", "preprocessCorda"],
    [check({ ...good, sites: new Map() }), "CALIBRATION_SITE", "no module"],
    [check({ ...good, sites: new Map([["other", parts]]) }), "CALIBRATION_SITE", "other"],
    [check(good, 3), "CALIBRATION_SHAPE", "S_WC of layers.0.q_proj has shape [2]"],
    [check({ ...good, sites: new Map([[site.path, two]]) }), "CALIBRATION_SHAPE", "is missing"],
  ];
  for (const [attempt, code, part] of cases) {
    const error = assertThrows(attempt, GraftError);
    assertEquals(error.code, code);
    assertStringIncludes(error.message, part);
  }
});
