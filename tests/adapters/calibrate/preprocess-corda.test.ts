import { assert, assertEquals, assertLess, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import {
  initialCalibration,
  loadCalibration,
  saveCalibration,
} from "../../../lib/adapters/lora/calibration-files.ts";
import { convertToLora } from "../../../lib/adapters/lora/convert-to-lora.ts";
import { forward } from "../../../lib/adapters/forward.ts";
import { hashBase } from "../../../lib/adapters/hash-base.ts";
import { prepareModelForCompiledHotswap } from "../../../lib/adapters/combine/hotswap.ts";
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import { loadAdapter } from "../../../lib/adapters/checkpoint/load.ts";
import { mergeAndUnload } from "../../../lib/adapters/merge/merge.ts";
import type { AnyModel } from "../../../lib/adapters/peft-model.ts";
import {
  type CordaProgress,
  preprocessCorda,
} from "../../../lib/adapters/lora/preprocess-corda.ts";
import type { AdapterParts } from "../../../lib/adapters/checkpoint/read-adapter.ts";
import { savePretrained } from "../../../lib/adapters/checkpoint/save.ts";
import { setAdapter } from "../../../lib/adapters/select.ts";
import { getAdapterStateDict } from "../../../lib/adapters/checkpoint/state-dict.ts";
import { addWeightedAdapter } from "../../../lib/adapters/combine/weighted-adapter.ts";
import type { Device } from "../../../lib/device/device.ts";
import {
  CheckpointError,
  ConfigError,
  FileError,
  type GraftError,
  TargetError,
  ValueError,
} from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { openSafetensors } from "../../../lib/io/safetensors.ts";
import type { Calibration } from "../../../lib/methods/calibration.ts";
import {
  type LoraConfig,
  loraConfig,
  type LoraFields,
} from "../../../lib/methods/lora/lora-config.ts";
import { fromPeftJson } from "../../../lib/methods/peft-json.ts";
import { type ModelGraph, withParameters } from "../../../lib/model/model-graph.ts";
import { toFloat32 } from "../../../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { testDevice, testOnDevices } from "../../devices.ts";
import { inFolder, namesIn } from "../../io/folder.ts";
import { golden, goldenBase } from "../bases.ts";
import { randomized } from "../randomized.ts";
import index from "../../golden/corda/corda.json" with { type: "json" };

/** Bound of logits as a share of the largest; PEFT decomposes in 32-bit floats. */
const LOGITS = 3e-4;
/** Bound of what is taken of a weight: of the smallest singular values, whose gaps are narrow. */
const PART = { ipm: 1e-4, kpm: 5e-3 } as const;

const ROOT = join(golden, "corda");
const IDS = [[3, 1, 4, 15, 9, 26, 5]];
/** Rows of two lengths, of more tokens than there are inputs. */
const ROWS = [40, 33].map((n, i) =>
  Array.from({ length: n }, (_, j) => (7 * j * j + 13 * i + j) % 61)
);

async function logitsOf(model: AnyModel, inputIds: unknown = IDS): Promise<Float32Array> {
  return await toFloat32((await forward(model, { inputIds: inputIds as number[][] })).logits);
}

/** The largest difference as a share of the largest number. */
function apart(a: ArrayLike<number>, b: ArrayLike<number>): number {
  assertEquals(a.length, b.length);
  const size = Math.max(...Array.from(b, Math.abs));
  return Math.max(...Array.from(a, (x, i) => Math.abs(x - b[i]))) / size;
}

async function tensorsApart(a: Tensor, b: Tensor): Promise<number> {
  assertEquals(a.shape, b.shape);
  return apart(await toFloat32(a), await toFloat32(b));
}

async function calibrationsApart(a: Calibration, b: Calibration): Promise<number> {
  assertEquals([...a.sites.keys()], [...b.sites.keys()]);
  const all = [...a.sites].map(async ([path, parts]) => {
    const [x, y] = [await product(parts), await product(b.sites.get(path)!)];
    return apart(x, y);
  });
  return Math.max(...await Promise.all(all));
}

/** U·S·Vᵀ, which has no signs to choose. */
async function product(parts: Readonly<Record<string, Tensor>>): Promise<Float64Array> {
  const [s, u, v] = await Promise.all(
    ["S_WC", "U_WC", "V_WC"].map((part) => toFloat32(parts[part])),
  );
  const r = s.length, rows = u.length / r, columns = v.length / r;
  return Float64Array.from({ length: rows * columns }, (_, at) => {
    const [i, j] = [Math.floor(at / columns), at % columns];
    let sum = 0;
    for (let k = 0; k < r; k++) sum += u[i * r + k] * s[k] * v[j * r + k];
    return sum;
  });
}

async function expectedOf(file: string): Promise<{
  readonly get: (name: string) => Tensor;
  readonly batches: readonly { readonly inputIds: Tensor }[];
}> {
  const { tensors } = await openSafetensors(join(ROOT, file));
  const batches = [...tensors].filter(([name]) => name.startsWith("calibration."))
    .map(([, inputIds]) => ({ inputIds }));
  return { get: (name) => tensors.get(name)!, batches };
}

function cordaConfig(fields: LoraFields = {}): LoraConfig {
  return loraConfig({ initLoraWeights: "corda", taskType: "CAUSAL_LM", r: 3, ...fields });
}

/** A config with lists that are sets in Python in order. */
function ordered(json: Readonly<Record<string, unknown>>): unknown {
  return { ...json, target_modules: [...json.target_modules as string[]].sort() };
}

for (const { name, kind, modules } of index.cases) {
  testOnDevices(
    `golden ${name}: the beginning and the rest of the base are PEFT's`,
    async (device) => {
      const base = await goldenBase(kind, device);
      const { get, batches } = await expectedOf(`${name}/expected.safetensors`);
      const json = await readJsonFile(join(ROOT, name, "trained", "adapter_config.json"));
      const config = fromPeftJson(json) as LoraConfig;
      const calibration = await preprocessCorda(base, config, { batches });
      assertEquals([...calibration.sites.keys()].sort(), [...modules].sort());
      const bound = PART[config.cordaConfig!.cordaMethod];
      for (const path of modules) {
        const parts = calibration.sites.get(path)!;
        const covariance = calibration.covariances!.get(path)!;
        assertLess(await tensorsApart(covariance, get(`covariance.${path}`)), 1e-5);
        assertLess(await tensorsApart(parts.S_WC, get(`values.${path}`)), 1e-3);
        const { kind, inFeatures, outFeatures } = base.sites.get(path)!;
        const weight = await toFloat32(base.parameters.get(`${path}.weight`)!);
        const taken = await product(parts);
        const residual = taken.map((x, at) => {
          const [i, j] = [Math.floor(at / inFeatures), at % inFeatures];
          return weight[kind === "linear" ? at : j * outFeatures + i] - x;
        });
        assertLess(apart(residual, await toFloat32(get(`residual.${path}`))), bound);
      }
      const before = await hashBase(base);
      const model = getPeftModel(base, config, { calibration });
      const ids = get("input_ids");
      const began = await logitsOf(model, ids);
      assertLess(apart(began, await logitsOf(base, ids)), 1e-5);
      assertLess(apart(began, await toFloat32(get("initial.logits"))), 1e-5);
      assertEquals(await hashBase(base), before);
    },
  );

  testOnDevices(
    `golden ${name}: loaded, merged and saved as a plain LoRA as PEFT does it`,
    (device) =>
      inFolder(async (folder) => {
        const base = await goldenBase(kind, device);
        const { get, batches } = await expectedOf(`${name}/expected.safetensors`);
        const [initial, trained, plain] = ["initial", "trained", "plain"]
          .map((part) => join(ROOT, name, part));
        const json = await readJsonFile(join(trained, "adapter_config.json"));
        const [ids, logits] = [get("input_ids"), await toFloat32(get("logits"))];
        assert(apart(await logitsOf(base, ids), logits) > 0.1, "the adapter changes something");

        const measured = await preprocessCorda(base, fromPeftJson(json), { batches });
        const known = await initialCalibration(base, initial);
        for (const [calibration, bound] of [[measured, LOGITS], [known, 2e-5]] as const) {
          const model = await loadAdapter(base, trained, { calibration });
          assertLess(apart(await logitsOf(model, ids), logits), bound);
          assertLess(apart(await logitsOf(mergeAndUnload(model), ids), logits), bound);
        }
        const model = await loadAdapter(base, trained, { calibration: known });
        const { config } = model.adapters.get("default")!;
        const parts: AdapterParts = {
          config,
          tensors: (await openSafetensors(join(initial, "adapter_model.safetensors"))).tensors,
        };
        const start = getPeftModel(base, config, { calibration: known });
        for (const given of [initial, new URL(`file://${initial}`), parts, start, true] as const) {
          await savePretrained(model, folder, { pathInitialModelForWeightConversion: given });
          const written = await readJsonFile(join(folder, "adapter_config.json"));
          assertEquals(
            ordered(written),
            ordered(await readJsonFile(join(plain, "adapter_config.json"))),
          );
          const { tensors } = await openSafetensors(join(folder, "adapter_model.safetensors"));
          const { tensors: theirs } = await openSafetensors(
            join(plain, "adapter_model.safetensors"),
          );
          assertEquals([...tensors.keys()], [...theirs.keys()]);
          for (const [key, expected] of theirs) {
            assertLess(await tensorsApart(tensors.get(key)!, expected), 1e-6, key);
          }
          // Needs no calibration.
          assertLess(apart(await logitsOf(await loadAdapter(base, folder), ids), logits), 2e-5);
        }
        // Saved as it is, it is PEFT's file again.
        await savePretrained(model, folder);
        const again = await readJsonFile(join(folder, "adapter_config.json"));
        assertEquals(ordered(again), ordered(json));
        const back = await loadAdapter(base, folder, { calibration: known });
        assertEquals(await logitsOf(back, ids), await logitsOf(model, ids));
      }),
  );
}

testOnDevices("golden: 16 bits where the base has them and they are asked for", async (device) => {
  for (const { kind, module, config, corda, dtype } of index.half) {
    const base = await goldenBase(kind, device);
    const { get, batches } = await expectedOf("half.safetensors");
    const json = { peft_type: "LORA", init_lora_weights: "corda", ...config };
    const made = (fields: Record<string, unknown>) =>
      preprocessCorda(
        base,
        fromPeftJson({ ...json, corda_config: { ...fields, prune_temporary_fields: false } }),
        { batches },
      );
    const { covariances } = await made(corda);
    const found = covariances!.get(module)!;
    const type = dtype.replace("torch.", "").replace("float", "f");
    assertEquals(found.dtype, type);
    // PEFT's model computes in 16 bits before the covariance too.
    const bound = { f32: 1e-5, f16: 5e-3, bf16: 3e-2 }[type]!;
    assertLess(await tensorsApart(found, get(`${kind}.${module}`)), bound);
    const exact = (await made({})).covariances!.get(module)!;
    assertEquals(exact.dtype, "f32");
    assertEquals(await tensorsApart(found, exact) > 1e-5, type !== "f32");
  }
});

testOnDevices("rows count alike however they are batched, and padding does not", async (device) => {
  const base = await goldenBase("llama", device);
  const config = cordaConfig({ targetModules: ["q_proj", "down_proj"], r: 4 });
  const one = await preprocessCorda(base, config, {
    batches: ROWS.map((row) => ({ inputIds: [row] })),
  });
  const pad = ROWS[0].length - ROWS[1].length;
  const junk = Array.from({ length: pad }, (_, i) => 50 + i);
  const full = ROWS[0].map(() => 1);
  const right = await preprocessCorda(base, config, {
    batches: [{
      inputIds: [ROWS[0], [...ROWS[1], ...junk]],
      attentionMask: [full, [...ROWS[1].map(() => 1), ...junk.map(() => 0)]],
      labels: [ROWS[0], ROWS[0]],
    }],
  });
  assertLess(await calibrationsApart(right, one), 1e-4);
  // As a stream, padded on the left, with a row of nothing but padding.
  async function* stream() {
    await Promise.resolve();
    yield {
      inputIds: [[...junk, ...ROWS[1]], ROWS[0]],
      attentionMask: [[...junk.map(() => 0), ...ROWS[1].map(() => 1)], full.map(() => 0)],
      positionIds: [[...junk.map(() => 0), ...ROWS[1].keys()], [...full.keys()]],
    };
    yield { inputIds: [ROWS[0]] };
  }
  const left = await preprocessCorda(base, config, { batches: stream() });
  assertLess(await calibrationsApart(left, one), 1e-4);
  const other = await preprocessCorda(base, config, { batches: [{ inputIds: [ROWS[0]] }] });
  assert(await calibrationsApart(other, one) > 1e-3);
});

testOnDevices("what began as CorDA is an adapter like any other", async (device) => {
  const cases: [string, LoraFields][] = [
    ["llama", { useDora: true, useRslora: true, loraAlpha: 5 }],
    ["llama", { targetModules: "all-linear", cordaConfig: { cordaMethod: "kpm" } }],
    ["gpt2", { targetModules: ["wte", "c_attn"], modulesToSave: ["ln_f"] }],
    ["llama_tied", { targetModules: ["lm_head", "o_proj"], rankPattern: { lm_head: 5 } }],
    ["qwen2", { bias: "lora_only", layersToTransform: [1] }],
  ];
  const batches = ROWS.map((row) => ({ inputIds: [row] }));
  for (const [kind, fields] of cases) {
    const base = await goldenBase(kind, device);
    const config = cordaConfig(fields);
    const calibration = await preprocessCorda(base, config, { batches });
    assertEquals(calibration.covariances, undefined);
    const start = getPeftModel(base, config, { calibration });
    const [none, before] = [await logitsOf(base), await logitsOf(start)];
    const untied = kind === "gpt2" && fields.targetModules!.includes("wte");
    assertLess(apart(before, none), 2e-5, `${kind} ${untied}`);
    const model = await randomized(start);
    const want = await logitsOf(model);
    assert(apart(none, want) > 1e-2, "the adapter changes something");
    assertLess(apart(await logitsOf(mergeAndUnload(model)), want), 1e-4);
    // A model of its own adapter and of another with another scale.
    const scaled = cordaConfig({ ...fields, loraAlpha: 11 });
    const two = addAdapter(model, "other", scaled, { calibration });
    assertLess(apart(await logitsOf(setAdapter(two, "other")), none), 2e-5);
    assertEquals(await logitsOf(two), want);
  }
});

Deno.test("combining, resizing and converting take what the base is to lack along", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const config = cordaConfig({ targetModules: ["q_proj", "up_proj"], loraAlpha: 7 });
  const batches = [{ inputIds: [ROWS[0]] }];
  const calibration = await preprocessCorda(base, config, { batches });
  const start = addAdapter(getPeftModel(base, config, { calibration }), "b", config, {
    calibration,
  });
  const model = await randomized(start);
  const [a, b, none] = [
    await logitsOf(model),
    await logitsOf(setAdapter(model, "b")),
    await logitsOf(base),
  ];
  for (const combinationType of ["cat", "svd"] as const) {
    for (const [names, weights, want] of [[["default"], [1], a], [["b"], [1], b]] as const) {
      const combined = await addWeightedAdapter(model, {
        adapters: [...names],
        weights: [...weights],
        adapterName: "sum",
        combinationType,
      });
      assertLess(apart(await logitsOf(setAdapter(combined, "sum")), want), 1e-4);
      assertEquals(
        (combined.adapters.get("sum")!.config as LoraConfig).initLoraWeights,
        true,
      );
    }
  }
  const ready = prepareModelForCompiledHotswap(model, { targetRank: 6 });
  assertLess(apart(await logitsOf(ready), a), 1e-5);
  const plain = await loadAdapter(base, await convertToLora(model, { rank: 6 }));
  assertLess(apart(await logitsOf(plain), a), 1e-4);
  assert(apart(none, a) > 1e-2);
});

Deno.test("covariances serve other ranks and the other method", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const batches = ROWS.map((row) => ({ inputIds: [row] }));
  const kept = cordaConfig({ cordaConfig: { pruneTemporaryFields: false } });
  const { covariances } = await preprocessCorda(base, kept, { batches });
  assertEquals(covariances!.size, 4);
  // The modules of a layer have the same input.
  const [q, v] = ["q_proj", "v_proj"].map((name) =>
    covariances!.get(`model.layers.0.self_attn.${name}`)!
  );
  assert(q === v);
  for (const cordaMethod of ["ipm", "kpm"] as const) {
    const config = cordaConfig({ r: 5, cordaConfig: { cordaMethod } });
    const reused = await preprocessCorda(base, config, { covariances });
    const fresh = await preprocessCorda(base, config, { batches });
    assertEquals(await calibrationsApart(reused, fresh), 0);
  }
});

Deno.test("files of the config are written where there are none, and read where there are", () =>
  inFolder(async (folder) => {
    const base = await goldenBase("llama", await testDevice("cpu"));
    const batches = ROWS.map((row) => ({ inputIds: [row] }));
    const cacheFile = join(folder, "deep", "er", "cache.safetensors");
    const covarianceFile = join(folder, "covariance.safetensors");
    const config = (fields: object, r = 3) =>
      cordaConfig({ r, cordaConfig: { cordaMethod: "kpm", ...fields } });
    const plain = await preprocessCorda(base, config({}), { batches });
    const first = await preprocessCorda(base, config({ cacheFile, covarianceFile }), { batches });
    assertEquals(await calibrationsApart(first, plain), 0);
    assertEquals(namesIn(folder), ["covariance.safetensors", "deep"]);
    const { tensors } = await openSafetensors(cacheFile);
    const path = "model.layers.1.self_attn.v_proj";
    assertEquals(tensors.get(`${path}.eigens.V_WC`)!.shape, [32, 3]);
    assertEquals((await openSafetensors(covarianceFile)).tensors.get(path)!.shape, [32, 32]);
    // No batches: nothing is run.
    assertEquals(
      await calibrationsApart(await preprocessCorda(base, config({ cacheFile })), plain),
      0,
    );
    const other = await preprocessCorda(base, config({ covarianceFile }, 5));
    const wanted = await preprocessCorda(base, config({}, 5), { batches });
    assertEquals(await calibrationsApart(other, wanted), 0);
    // A file of another rank, of another model, and an empty one, which counts as none.
    for (
      const attempt of [
        () => preprocessCorda(base, config({ cacheFile }, 4), { batches }),
        async () =>
          preprocessCorda(
            await goldenBase("gpt2", await testDevice("cpu")),
            config({ covarianceFile }),
          ),
      ]
    ) {
      const error = await assertRejects(
        attempt,
        CheckpointError,
        "another model or another config",
      );
      assertEquals(error.code, "CALIBRATION_FILE");
    }
    await Deno.writeFile(cacheFile, new Uint8Array());
    await assertRejects(() => preprocessCorda(base, config({ cacheFile })), ValueError, "batches");
    await Deno.writeTextFile(cacheFile, "PK\u0003\u0004 and so on");
    const pickle = await assertRejects(() => loadCalibration(cacheFile), FileError, "torch.save");
    assertEquals(pickle.code, "CALIBRATION_PICKLE");
    assertEquals(
      (await assertRejects(() => loadCalibration(covarianceFile), FileError)).code,
      "CALIBRATION_FILE",
    );
    await assertRejects(() => loadCalibration(join(folder, "nowhere")), FileError);

    const saved = join(folder, "saved", "calibration.safetensors");
    await saveCalibration(plain, saved);
    const again = await loadCalibration(new URL(`file://${saved}`));
    await Deno.remove(saved); // it has been read
    assertEquals(await calibrationsApart(again, plain), 0);
    assertEquals(
      await logitsOf(getPeftModel(base, config({}), { calibration: again })),
      await logitsOf(getPeftModel(base, config({}), { calibration: plain })),
    );
  }));

/** A base with a parameter of its own contents changed. */
async function altered(
  base: ModelGraph,
  name: string,
  change: (x: number, i: number) => number,
): Promise<ModelGraph> {
  const old = base.parameters.get(name)!;
  const made = tensor((await toFloat32(old)).map(change), { shape: old.shape });
  return withParameters(base, new Map([[name, made]]));
}

testOnDevices("what PEFT refuses is refused", async (device: Device) => {
  const base = await goldenBase("llama", device);
  const config = cordaConfig();
  const norm = (layer: number) => `model.layers.${layer}.input_layernorm.weight`;
  const batches = ROWS.map((row) => ({ inputIds: [row] }));
  const calibration = await preprocessCorda(base, config, { batches });
  const attempts: Record<string, readonly [() => unknown, string]> = {
    no_calibration: [() => getPeftModel(base, config), "CALIBRATION_MISSING"],
    loaded_without: [() => loadAdapter(base, join(ROOT, "ipm", "trained")), "CALIBRATION_MISSING"],
    no_batches: [() => preprocessCorda(base, config, { batches: [] }), "CALIBRATION_BATCHES"],
    no_run_model: [() => preprocessCorda(base, config), "CALIBRATION_BATCHES"],
    nan: [
      async () =>
        preprocessCorda(await altered(base, norm(0), (x, i) => i === 3 ? NaN : x), config, {
          batches,
        }),
      "CALIBRATION_INPUT",
    ],
    zero: [
      async () => preprocessCorda(await altered(base, norm(1), () => 0), config, { batches }),
      "CALIBRATION_INPUT",
    ],
    rank_too_large: [
      () => preprocessCorda(base, cordaConfig({ r: 40 }), { batches }),
      "CONFIG_CORDA_RANK",
    ],
    another_rank: [
      () => getPeftModel(base, cordaConfig({ r: 4 }), { calibration }),
      "CALIBRATION_SHAPE",
    ],
    lora_bias: [() => cordaConfig({ loraBias: true }), "CONFIG_LORA_BIAS"],
    upper_case: [() => cordaConfig({ initLoraWeights: "CORDA" as never }), "CONFIG_LORA_INIT"],
    config_type: [() => cordaConfig({ cordaConfig: 3 as never }), "CONFIG_FIELD_TYPE"],
  };
  assertEquals(Object.keys(attempts).sort(), Object.keys(index.refused).sort());
  for (const [name, [attempt, code]] of Object.entries(attempts)) {
    // deno-lint-ignore require-await -- what throws at once is to reject
    const error = await assertRejects(async () => attempt(), ValueError);
    assertEquals(error.code, code, `${name}: ${error.message}`);
  }
  // Infinity comes out of a layer norm as NaN or infinity, whatever the device makes of it.
  const huge = await altered(base, norm(0), () => 3e38);
  const error = await assertRejects(() => preprocessCorda(huge, config, { batches }), ValueError);
  assertStringIncludes(error.message, "model.layers.");
});

Deno.test("what else cannot be is refused with what to do", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const config = cordaConfig(), batches = [{ inputIds: [ROWS[0]] }];
  const calibration = await preprocessCorda(base, config, { batches });
  const cases: [string, () => unknown, abstract new (...args: never[]) => Error, string?][] = [
    ["CONFIG_CORDA", () => preprocessCorda(base, loraConfig(), { batches }), ConfigError],
    ["CALIBRATION_OPTION", () => preprocessCorda(base, config, { batch: 1 } as never), ValueError],
    [
      "CALIBRATION_BATCHES",
      () => preprocessCorda(base, config, { batches: 3 as never }),
      ValueError,
      "found 3",
    ],
    [
      "CALIBRATION_BATCHES",
      () => preprocessCorda(base, config, { batches: [{ input_ids: [[1]] }] as never }),
      ValueError,
      "inputIds",
    ],
    [
      "TARGET_NOT_FOUND",
      () => preprocessCorda(base, cordaConfig({ targetModules: ["w_proj"] }), { batches }),
      TargetError,
    ],
    [
      "CALIBRATION_COVARIANCE",
      () => preprocessCorda(base, config, { covariances: new Map() }),
      ValueError,
      "missing",
    ],
    [
      "CALIBRATION_UNUSED",
      () => getPeftModel(base, loraConfig(), { calibration }),
      ValueError,
      "Leave it out",
    ],
    [
      "CALIBRATION_UNUSED",
      () => getPeftModel(base, cordaConfig({ targetModules: ["embed_tokens"] }), { calibration }),
      ValueError,
    ],
    [
      "CALIBRATION_INITIAL",
      async () => initialCalibration(await goldenBase("gpt2"), join(ROOT, "ipm", "initial")),
      CheckpointError,
    ],
    [
      "TOKEN_ID_RANGE",
      () => preprocessCorda(base, config, { batches: [{ inputIds: [[99]] }] }),
      ValueError,
    ],
  ];
  for (const [code, attempt, type, part = ""] of cases) {
    // deno-lint-ignore require-await -- what throws at once is to reject
    const error = await assertRejects(async () => attempt(), type as never);
    assertEquals((error as unknown as GraftError).code, code);
    assertStringIncludes((error as Error).message, part);
  }
  // Embeddings begin as they do without CorDA.
  const embedding = getPeftModel(base, cordaConfig({ targetModules: ["embed_tokens"] }));
  assertLess(apart(await logitsOf(embedding), await logitsOf(base)), 1e-6);
});

Deno.test("progress, stopping and another model to run", async () => {
  const base = await goldenBase("llama", await testDevice("cpu"));
  const config = cordaConfig({ targetModules: ["o_proj"], r: 2 });
  const batches = ROWS.map((row) => ({ inputIds: [row] }));
  const told: CordaProgress[] = [];
  const plain = await preprocessCorda(base, config, {
    batches,
    onProgress: (progress) => told.push(progress),
  });
  assertEquals(told.map(({ phase }) => phase), ["covariance", "covariance", "eigens", "eigens"]);
  assertEquals(told[3], {
    phase: "eigens",
    path: "model.layers.1.self_attn.o_proj",
    done: 2,
    total: 2,
  });
  const stop = new AbortController();
  const stopped = preprocessCorda(base, config, {
    batches,
    signal: stop.signal,
    onProgress: () => stop.abort(new Error("enough")),
  });
  await assertRejects(() => stopped, Error, "enough");

  // The inputs are those of the model that is run, adapters included; the weights those of the base.
  const adapted = await randomized(
    getPeftModel(base, loraConfig({ targetModules: ["v_proj"], initLoraWeights: false })),
  );
  const other = await preprocessCorda(base, config, { batches, hookedModel: adapted });
  assert(await calibrationsApart(other, plain) > 1e-3);
  const merged = await preprocessCorda(base, config, {
    batches,
    hookedModel: mergeAndUnload(adapted),
  });
  assertLess(await calibrationsApart(other, merged), 1e-3);
  assertEquals(
    await calibrationsApart(await preprocessCorda(adapted, config, { batches }), plain),
    0,
  );

  const lines: unknown[] = [];
  const print = console.error;
  console.error = (line) => lines.push(line);
  try {
    const verbose = cordaConfig({ ...config, cordaConfig: { verbose: true } });
    await preprocessCorda(base, verbose, { batches });
  } finally {
    console.error = print;
  }
  assertEquals(lines.at(-1), "Collecting eigens: 2/2 model.layers.1.self_attn.o_proj");
  const keys = getAdapterStateDict(getPeftModel(base, config, { calibration: plain })).size;
  assertEquals(keys, 4);
});
