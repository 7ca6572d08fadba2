import { assert, assertEquals, assertRejects } from "@std/assert";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import {
  findKappaTargetModules,
  type KappaProgress,
  type KappaTargetOptions,
} from "../../../lib/adapters/calibrate/kappa-targets.ts";
import { planAdapter } from "../../../lib/adapters/plan/plan.ts";
import { ValueError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { withParameters } from "../../../lib/model/model-graph.ts";
import { tensor } from "../../../lib/tensor/tensor.ts";
import { golden, goldenBase } from "../bases.ts";

interface KappaFile {
  readonly bases: Readonly<
    Record<string, {
      readonly condition_numbers: Readonly<Record<string, number>>;
      readonly linear: readonly string[];
    }>
  >;
  readonly cases: readonly {
    readonly kind: string;
    readonly arguments: Readonly<Record<string, number>>;
    readonly target_modules: readonly string[];
  }[];
}

const { bases, cases } = await readJsonFile(`${golden}kappa.json`) as unknown as KappaFile;

const NAMES: Readonly<Record<string, keyof KappaTargetOptions>> = {
  top_p: "topP",
  num_modules: "numModules",
  threshold: "threshold",
  max_dim_size_to_analyze: "maxDimension",
};

Deno.test("condition numbers are PEFT's", async () => {
  for (const [kind, wanted] of Object.entries(bases)) {
    const base = await goldenBase(kind);
    const progress: KappaProgress[] = [];
    const { conditionNumbers } = await findKappaTargetModules(base, {
      onProgress: (step) => progress.push(step),
    });
    // PEFT's numbers are of 32 bits, in which the smallest singular value is off by a share of the
    // largest.
    for (const [path, number] of Object.entries(wanted.condition_numbers)) {
      const off = Math.abs(conditionNumbers.get(path)! / number - 1);
      assert(
        off < 1e-5 + 1e-6 * number,
        `${kind} ${path}: ${conditionNumbers.get(path)} ${number}`,
      );
    }
    const total = Object.keys(wanted.condition_numbers).length;
    assertEquals(conditionNumbers.size, total);
    const numbers = [...conditionNumbers.values()];
    assertEquals(numbers, numbers.toSorted((a, b) => a - b));
    assertEquals(
      progress,
      Object.keys(wanted.condition_numbers).map((path, i) => ({ path, done: i + 1, total })),
    );
    // What PEFT passes over is what it does not know as a linear layer.
    const passedOver = [...conditionNumbers.keys()].filter((path) => !wanted.linear.includes(path));
    assert(passedOver.every((path) => base.sites.get(path)!.kind === "conv1d"), kind);
  }
});

Deno.test("chosen modules are PEFT's", async () => {
  for (const { kind, arguments: given, target_modules } of cases) {
    const options = Object.fromEntries(
      Object.entries(given).map(([name, value]) => [NAMES[name], value]),
    );
    const { targetModules } = await findKappaTargetModules(await goldenBase(kind), options);
    assertEquals(targetModules, target_modules, `${kind} ${JSON.stringify(given)}`);
  }
});

Deno.test("a fifth by default, as a config takes it, and of the base whatever is on it", async () => {
  for (const kind of ["llama", "gpt2"]) {
    const base = await goldenBase(kind);
    const { targetModules, conditionNumbers } = await findKappaTargetModules(base);
    assertEquals(targetModules, [...conditionNumbers.keys()].slice(0, conditionNumbers.size / 5));
    const { sites } = planAdapter(base, loraConfig({ r: 2, targetModules }));
    assertEquals(sites.map(({ site }) => site.path).sort(), [...targetModules].sort());
    const model = getPeftModel(base, loraConfig({ r: 2, initLoraWeights: "pissa" }));
    assertEquals((await findKappaTargetModules(model)).conditionNumbers, conditionNumbers);
  }
});

Deno.test("weights without full rank, and without numbers", async () => {
  const base = await goldenBase("llama");
  const path = "model.layers.1.self_attn.v_proj";
  const { inFeatures, outFeatures } = base.sites.get(path)!;
  const withWeight = (value: (row: number, column: number) => number) => {
    const data = Float32Array.from(
      { length: inFeatures * outFeatures },
      (_, i) => value(Math.floor(i / inFeatures), i % inFeatures),
    );
    const weight = tensor(data, { shape: [outFeatures, inFeatures] });
    return withParameters(base, new Map([[`${path}.weight`, weight]]));
  };
  const kappa = async (value: (row: number, column: number) => number) =>
    (await findKappaTargetModules(withWeight(value))).conditionNumbers.get(path)!;
  const near = (found: number, wanted: number) => assert(Math.abs(found / wanted - 1) < 1e-6);
  near(await kappa((i, j) => i === j ? 3 : 0), 1);
  near(await kappa((i, j) => i === j ? 2 + 5 * i : 0), (2 + 5 * (outFeatures - 1)) / 2);
  // Rank one: PEFT adds 1e-8 to the smallest singular value.
  assert(await kappa((i, j) => (i + 1) * (j - 3)) > 1e9);
  assertEquals(await kappa(() => 0), 0);
  for (const bad of [NaN, Infinity]) {
    const error = await assertRejects(
      () => kappa((i, j) => i === 2 && j === 5 ? bad : 1),
      ValueError,
    );
    assert(error.message.includes(path));
  }
});

Deno.test("what cannot be chosen is refused", async () => {
  const base = await goldenBase("llama");
  for (
    const options of [
      { topP: 1.5 },
      { topP: -0.1 },
      { topP: "0.2" },
      { numModules: 0 },
      { numModules: 2.5 },
      { threshold: 0 },
      { threshold: NaN },
      { maxDimension: 0 },
      { topP: 0.5, numModules: 3 },
      { top_p: 0.5 },
      { numModules: 1, threshold: 4 },
      { onProgress: "yes" },
    ]
  ) {
    await assertRejects(() => findKappaTargetModules(base, options as never), ValueError);
  }
  await assertRejects(() => findKappaTargetModules({} as never), ValueError);
  assertEquals((await findKappaTargetModules(base, { threshold: 0.5 })).targetModules, []);
  const none = await findKappaTargetModules(base, { maxDimension: 3 });
  assertEquals([none.targetModules, none.conditionNumbers.size], [[], 0]);
});
